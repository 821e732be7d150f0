"""Calls on tensors: NumPy's bits, eager and in graphs; nothing copied; every shape and layout."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support.tensorflowcases import (
    CASE,
    SETTINGS,
    channels_last,
    convolve,
    quiet,
    same_bits,
    tensors,
)

import cudeform
from cudeform import engine
from cudeform.interop import tensorflow as adapter
from cudeform.interop.tensorflow.memory import ALIGNMENT

pytestmark = quiet


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_eager_and_graph_have_numpys_bits(dtype):
    case = CASE.cast(dtype)
    expected = cudeform.deform_conv2d(**case.arguments)
    assert same_bits(convolve(*tensors(case)), expected)
    assert same_bits(tf.function(convolve)(*tensors(case)), expected)


def test_variables_are_read_and_learn():
    input, offset, weight, *rest = tensors()
    variable = tf.Variable(weight)
    with tf.GradientTape() as tape:
        output = convolve(input, offset, variable, *rest)
    assert same_bits(output, convolve(*tensors()).numpy())
    assert tape.gradient(output, variable).shape == weight.shape


def test_unknown_sizes_are_known_when_the_graph_runs():
    signature = [tf.TensorSpec([None, *t.shape[1:2], None, None], t.dtype) for t in tensors()[:2]]
    input, offset, weight, *_ = tensors()
    function = tf.function(
        lambda image, displaced: cudeform.deform_conv2d(image, displaced, weight, **SETTINGS),
        input_signature=signature,
    )
    found = function.get_concrete_function().output_shapes
    assert found.as_list() == [None, len(weight), None, None]
    for batch in (len(input), 1, 0):
        output = function(input[:batch], offset[:batch])
        arrays = input[:batch].numpy(), offset[:batch].numpy(), weight.numpy()
        assert same_bits(output, cudeform.deform_conv2d(*arrays, **SETTINGS))


def test_a_graph_knows_the_shapes_that_follow():
    batchless = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in tensors()[:2]]
    weight = tensors()[2]

    @tf.function(input_signature=batchless)
    def function(image, offset):
        return cudeform.deform_conv2d(image, offset, weight, **SETTINGS)

    expected = [None, *CASE.grad_output.shape[1:]]
    assert function.get_concrete_function().output_shapes.as_list() == expected


def test_a_graph_takes_tensors_of_unknown_rank():
    function = tf.function(
        convolve, input_signature=[tf.TensorSpec(None, t.dtype) for t in tensors()]
    )
    assert same_bits(function(*tensors()), cudeform.deform_conv2d(**CASE.arguments))


@pytest.mark.parametrize("traced", [False, True])
def test_channels_last_is_the_same_without_copies(traced, monkeypatch):
    input, offset, weight, bias, mask = tensors()
    strides = []
    forward = engine.forward
    monkeypatch.setattr(
        engine,
        "forward",
        lambda operands, *rest: (strides.append(operands.input.strides), forward(operands, *rest)),
    )
    function = tf.function(adapter.deform_conv2d) if traced else adapter.deform_conv2d
    kernel = tf.transpose(weight, (2, 3, 1, 0))
    images = [channels_last(each) for each in (input, offset, mask)]
    output = function(*images[:2], kernel, bias, mask=images[2], **SETTINGS)
    assert same_bits(output, channels_last(convolve(*tensors())).numpy())
    assert strides[0][1] == input.dtype.size  # channels are neighbours: a view


def test_channels_last_has_the_same_gradients():
    input, offset, weight, bias, mask = tensors()
    operands = [channels_last(input), channels_last(offset), tf.transpose(weight, (2, 3, 1, 0))]
    operands += [bias, channels_last(mask)]
    with tf.GradientTape() as tape:
        tape.watch(operands)
        *first, last = operands
        output = adapter.deform_conv2d(*first, mask=last, **SETTINGS, data_format="NHWC")
    grads = tape.gradient(output, operands, channels_last(tf.constant(CASE.grad_output)))
    expected = cudeform.deform_conv2d_backward(**CASE.backward_arguments)
    for name, grad in zip(expected._fields, grads, strict=True):
        array = getattr(expected, name)
        if name == "weight":
            array = array.transpose(2, 3, 1, 0)
        elif name != "bias":
            array = array.transpose(0, 2, 3, 1)
        assert grad.shape == array.shape, name
        np.testing.assert_allclose(grad, array, rtol=1e-12, atol=1e-12)


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


def test_results_survive_the_kernels_that_follow():
    """Memory at another address than TensorFlow's would end the process there."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        n, c, o, h, w = (int(size) for size in rng.integers(1, 7, 5))
        image = tf.constant(rng.standard_normal((n, c, h, w), dtype="float32"))
        offset = tf.constant(rng.standard_normal((n, 2, h, w), dtype="float32"))
        weight = tf.constant(rng.standard_normal((o, c, 1, 1), dtype="float32"))
        with tf.GradientTape() as tape:
            tape.watch([image, offset, weight])
            output = cudeform.deform_conv2d(image, offset, weight)
            assert np.from_dlpack(output).ctypes.data % ALIGNMENT == 0
            loss = tf.reduce_sum(tf.nn.softmax(tf.tanh(output), axis=1))
        for grad in tape.gradient(loss, [image, offset, weight]):
            assert np.from_dlpack(grad).ctypes.data % ALIGNMENT == 0
            assert bool(tf.reduce_all(tf.math.is_finite(tf.tanh(grad))))


def test_empty_batches_work():
    input, offset, weight, bias, mask = tensors()
    output = convolve(input[:0], offset[:0], weight, bias, mask[:0])
    assert output.shape == (0, *CASE.grad_output.shape[1:])


def test_a_graph_keeps_the_options_that_it_was_traced_with(monkeypatch):
    seen = []
    forward = engine.forward

    def spy(operands, geometry, options, *rest):
        seen.append(options.num_threads)
        forward(operands, geometry, options, *rest)

    monkeypatch.setattr(engine, "forward", spy)
    function = tf.function(convolve)
    with cudeform.options(num_threads=1):
        function(*tensors())
    function(*tensors())
    convolve(*tensors())
    assert seen == [1, 1, None]


def test_op_determinism_is_honoured(monkeypatch):
    from tensorflow.python.framework import config

    seen = []
    monkeypatch.setattr(
        engine, "forward", lambda _, __, options, *rest: seen.append(options.deterministic)
    )
    tf.config.experimental.enable_op_determinism()
    try:
        convolve(*tensors())
    finally:
        config.disable_op_determinism()
    convolve(*tensors())
    assert seen == [True, False]


def test_a_pipeline_of_data_may_call_it():
    input, offset, weight, *_ = tensors()
    data = tf.data.Dataset.from_tensor_slices((input, offset)).batch(1)
    mapped = data.map(
        lambda image, displaced: cudeform.deform_conv2d(image, displaced, weight, **SETTINGS),
        num_parallel_calls=2,
    )
    found = tf.concat(list(mapped), axis=0)
    arrays = input.numpy(), offset.numpy(), weight.numpy()
    np.testing.assert_allclose(found, cudeform.deform_conv2d(*arrays, **SETTINGS), rtol=1e-12)


def test_threads_share_a_function():
    function = tf.function(convolve)
    expected = cudeform.deform_conv2d(**CASE.arguments)
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda _: function(*tensors()), range(16)))
    assert all(same_bits(output, expected) for output in outputs)


@pytest.mark.slow
def test_replicas_on_several_devices_agree():
    """A process of its own, for logical devices are made before TensorFlow is used."""
    code = """
import numpy as np, tensorflow as tf, cudeform
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
image, offset = tf.random.normal((2, 3, 5, 5)), tf.random.normal((2, 18, 5, 5))
with strategy.scope():
    weight = tf.Variable(tf.random.normal((4, 3, 3, 3)))

@tf.function
def step():
    def replica():
        at = tf.distribute.get_replica_context().replica_id_in_sync_group
        with tf.GradientTape() as tape:
            output = cudeform.deform_conv2d(image[at:][:1], offset[at:][:1], weight, padding=1)
            loss = tf.reduce_sum(output ** 2)
        return tape.gradient(loss, weight)
    return strategy.reduce("SUM", strategy.run(replica), axis=None)

with tf.GradientTape() as tape:
    kernel = tf.convert_to_tensor(weight)
    tape.watch(kernel)
    loss = tf.reduce_sum(cudeform.deform_conv2d(image, offset, kernel, padding=1) ** 2)
np.testing.assert_allclose(step(), tape.gradient(loss, kernel), rtol=1e-4, atol=1e-4)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sizes_of_levels_may_be_a_tensor():
    value, locations = tf.ones((1, 20, 2, 3)), tf.fill((1, 5, 2, 2, 3, 2), 0.5)
    shapes, weights = tf.constant([(4, 4), (2, 2)]), tf.ones((1, 5, 2, 2, 3)) / 6
    output = cudeform.ms_deform_attn(value, shapes, locations, weights)
    np.testing.assert_allclose(output, tf.ones((1, 5, 6)), rtol=1e-6)
    with pytest.raises(TypeError, match="pass a list of numbers"):
        tf.function(cudeform.ms_deform_attn)(value, shapes, locations, weights)


def test_the_benchmark_of_a_call_measures_every_way(tmp_path):
    script = Path(__file__).resolve().parents[3] / "benchmarks" / "tensorflow_overhead.py"
    command = [sys.executable, str(script), "--calls", "1", "--json", str(tmp_path / "times")]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "times").read_text())["microseconds a call"]
    names = ["NumPy arrays", "eager", "eager, with gradients", "a function of additions"]
    names += ["a function", "100 additions in a function", "100 in a function"]
    assert {title: list(samples) for title, samples in report.items()} == {
        "without the engine": names,
        "with the engine": names,
    }
