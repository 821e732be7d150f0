"""Calls in programs: pipelines, variables, maps, branches, threads, replicas; their overhead."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support.tensorflowcases import CASE, SETTINGS, convolve, quiet, same_bits, tensors

import cudeform

pytestmark = quiet


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


@pytest.mark.parametrize("traced", [False, True])
def test_a_variable_may_change_after_the_call(traced):
    input, offset, weight, bias, mask = tensors()
    kernel = tf.Variable(weight)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(input)
            output = convolve(input, offset, kernel, bias, mask)
            kernel.assign(tf.zeros_like(weight))
        return output, tape.gradient(output, input, tf.constant(CASE.grad_output))

    output, grad = (tf.function(gradient) if traced else gradient)()
    assert same_bits(output, cudeform.deform_conv2d(**CASE.arguments))
    assert same_bits(grad, cudeform.deform_conv2d_backward(**CASE.backward_arguments).input)


def test_few_traces_serve_many_sizes():
    traces = []

    @tf.function(reduce_retracing=True)
    def function(image, offset):
        traces.append(image.shape)
        return cudeform.deform_conv2d(image, offset, tf.ones((1, 1, 1, 1)))

    for size in range(1, 6):
        image, offset = tf.ones((size, 1, size, 4)), tf.zeros((size, 2, size, 4))
        assert same_bits(function(image, offset), image.numpy())
    assert len(traces) == 2


def test_maps_and_branches_of_a_graph():
    input, offset, weight, *_ = tensors()

    def each(pair):
        image, displaced = pair
        return cudeform.deform_conv2d(image[None], displaced[None], weight, **SETTINGS)[0]

    @tf.function
    def function(image, displaced, positive):
        if positive:
            return tf.map_fn(each, (image, displaced), fn_output_signature=image.dtype)
        return convolve(image, displaced, weight)

    expected = convolve(input, offset, weight)
    for positive in (True, False):
        output = function(input, offset, tf.constant(positive))
        np.testing.assert_allclose(output, expected, rtol=1e-12)


def test_recomputed_and_stopped_gradients():
    input, *rest = tensors()

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(input)
            output = function(input, *rest)
        return tape.gradient(output, input)

    assert same_bits(gradient(tf.recompute_grad(convolve)), gradient(convolve).numpy())
    assert gradient(lambda *operands: tf.stop_gradient(convolve(*operands))) is None


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


def test_the_benchmark_of_a_call_measures_every_way(tmp_path):
    script = Path(__file__).resolve().parents[3] / "benchmarks" / "tensorflow_overhead.py"
    command = [sys.executable, str(script), "--calls", "1", "--json", str(tmp_path / "times")]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "times").read_text())["microseconds a call"]
    names = ["NumPy arrays", "eager", "an identity, with gradients", "eager, with gradients"]
    names += [
        "a function of additions",
        "a function",
        "100 additions in a function",
        "100 in a function",
    ]
    assert {title: list(samples) for title, samples in report.items()} == {
        "without the engine": names,
        "with the engine": names,
    }
