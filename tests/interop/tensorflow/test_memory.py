"""Memory: nothing is copied, every result is aligned; what TensorFlow does with other memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from support.tensorflowcases import CASE, SETTINGS, convolve, quiet, same_bits, tensors, tf

import cudeform
from cudeform import engine
from cudeform.interop.dlpack_bfloat16 import export_bfloat16, import_bfloat16
from cudeform.interop.tensorflow.memory import ALIGNMENT, HOST

pytestmark = quiet
lend = tf.experimental.dlpack.from_dlpack


def address(tensor: Any) -> int:
    return int(np.from_dlpack(tensor).ctypes.data)


def test_exported_memory_is_shared_and_read_only() -> None:
    tensor = tf.constant(np.arange(6.0))
    view = np.from_dlpack(tensor)
    assert not view.flags.writeable
    assert view.ctypes.data == address(tensor)
    assert tensor.numpy().ctypes.data != address(tensor)


def test_only_capsules_of_c_contiguous_arrays_are_imported() -> None:
    array = np.arange(6.0).reshape(2, 3)
    with pytest.raises(Exception, match="capsule"):
        lend(array)
    with pytest.raises(tf.errors.InvalidArgumentError, match="strides"):
        lend(array.T.__dlpack__())


def test_a_stream_is_refused() -> None:
    with pytest.raises(RuntimeError, match="DLPack export with a non-None stream"):
        tf.ones(3).__dlpack__(stream=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_memory_goes_both_ways_without_copies(dtype: str) -> None:
    array, handle = HOST.empty((2, 3), tf.as_dtype(dtype))
    assert array.ctypes.data % ALIGNMENT == 0
    tensor = HOST.lend(handle)
    assert tensor.dtype == dtype
    assert HOST.borrow(tensor).ctypes.data == array.ctypes.data


def test_bfloat16_is_shared() -> None:
    array, _ = HOST.empty((4,), tf.bfloat16)
    array[:] = [1, 2, 3, 4]
    tensor = lend(export_bfloat16(array).__dlpack__())
    assert import_bfloat16(tensor).ctypes.data == array.ctypes.data
    assert tensor.numpy().tolist() == [1, 2, 3, 4]


def test_memory_of_tensorflows_allocator_can_be_written() -> None:
    """As the results on a GPU are."""
    tensor = tf.raw_ops.Empty(shape=(3,), dtype=tf.float32, init=False)
    memory = (ctypes.c_float * 3).from_address(address(tensor))
    memory[:] = [1, 2, 3]
    assert tensor.numpy().tolist() == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("shift", [4, 16, 32])
def test_other_addresses_end_the_process(shift: int) -> None:
    code = f"""
import numpy as np, tensorflow as tf
memory = np.zeros(1024, np.uint8)
start = -memory.ctypes.data % 64 + {shift}
array = memory[start : start + 256].view(np.float32)
print(tf.tanh(tf.experimental.dlpack.from_dlpack(array.__dlpack__())).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -6, done.stdout
    assert "IsAligned()" in done.stderr


@pytest.mark.parametrize("traced", [False, True])
def test_memory_is_read_and_written_where_it_is(traced, monkeypatch):
    """Addresses that the engine sees are those of the tensors, coming and going."""
    seen = []
    forward = engine.forward

    def spy(operands, geometry, options, output, device):
        arrays = (*operands.present().values(), output)
        seen.append([array.ctypes.data for array in arrays])
        forward(operands, geometry, options, output, device)

    monkeypatch.setattr(engine, "forward", spy)
    operands = tensors()
    output = (tf.function(convolve) if traced else convolve)(*operands)
    assert seen == [[np.from_dlpack(tensor).ctypes.data for tensor in (*operands, output)]]


@pytest.mark.parametrize("traced", [False, True])
def test_gradients_are_read_and_written_where_they_are(traced, monkeypatch):
    seen = []
    backward = engine.backward

    def spy(operands, geometry, options, grad_output, grads, device):
        read = *operands.present().values(), grad_output
        assert not any(array.flags.writeable for array in read)
        seen.append([array.ctypes.data for array in (*read, *grads)])
        backward(operands, geometry, options, grad_output, grads, device)

    monkeypatch.setattr(engine, "backward", spy)
    operands, grad_output = tensors(), tf.constant(CASE.grad_output)

    def gradients(grad_output, *operands):
        return cudeform.deform_conv2d_backward(
            grad_output, *operands[:4], mask=operands[4], **SETTINGS
        )

    grads = (tf.function(gradients) if traced else gradients)(grad_output, *operands)
    wanted = [np.from_dlpack(each).ctypes.data for each in (*operands, grad_output, *grads)]
    assert seen == [wanted]


@pytest.mark.parametrize("traced", [False, True])
def test_results_survive_the_kernels_that_follow(traced):
    """Memory at another address than TensorFlow's would end the process there."""
    call = cudeform.deform_conv2d
    if traced:
        unknown = [tf.TensorSpec([None] * 4, "float32")] * 3
        call = tf.function(cudeform.deform_conv2d, input_signature=unknown)
    rng = np.random.default_rng(0)
    for _ in range(30):
        n, c, o, h, w = (int(size) for size in rng.integers(1, 7, 5))
        image = tf.constant(rng.standard_normal((n, c, h, w), dtype="float32"))
        offset = tf.constant(rng.standard_normal((n, 2, h, w), dtype="float32"))
        weight = tf.constant(rng.standard_normal((o, c, 1, 1), dtype="float32"))
        with tf.GradientTape() as tape:
            tape.watch([image, offset, weight])
            output = call(image, offset, weight)
            assert np.from_dlpack(output).ctypes.data % ALIGNMENT == 0
            loss = tf.reduce_sum(tf.nn.softmax(tf.tanh(output), axis=1))
        for grad in tape.gradient(loss, [image, offset, weight]):
            assert np.from_dlpack(grad).ctypes.data % ALIGNMENT == 0
            assert bool(tf.reduce_all(tf.math.is_finite(tf.tanh(grad))))


def test_a_variable_does_not_share_the_memory_of_a_result():
    output = convolve(*tensors())
    variable = tf.Variable(output)
    variable.assign(output).assign_add(tf.ones_like(output))
    assert same_bits(output, cudeform.deform_conv2d(**CASE.arguments))
