"""Calls on tensors: NumPy's bits, eager and in graphs; every shape, layout and option."""

import numpy as np
import pytest
import tensorflow as tf
from support.tensorflowcases import (
    CASE,
    SETTINGS,
    convolve,
    quiet,
    same_bits,
    tensors,
)

import cudeform
from cudeform import engine

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


def test_empty_batches_work():
    input, offset, weight, bias, mask = tensors()
    output = convolve(input[:0], offset[:0], weight, bias, mask[:0])
    assert output.shape == (0, *CASE.grad_output.shape[1:])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        output = convolve(input[:0], offset[:0], weight, bias, mask[:0])
    assert not np.any(tape.gradient(output, weight))


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
    with cudeform.options(num_threads=1):
        data = tf.data.Dataset.from_tensors(tuple(tensors())).map(convolve)
    list(data)
    assert seen[3:] == [1]


def test_op_determinism_is_honoured(monkeypatch):
    from tensorflow.python.framework import config

    seen = []
    monkeypatch.setattr(
        engine, "forward", lambda _, __, options, *rest: seen.append(options.deterministic)
    )
    tf.config.experimental.enable_op_determinism()
    try:
        convolve(*tensors())
        tf.function(convolve)(*tensors())
        list(tf.data.Dataset.from_tensors(tuple(tensors())).map(convolve, num_parallel_calls=2))
    finally:
        config.disable_op_determinism()
    convolve(*tensors())
    assert seen == [True, True, True, False]


def test_sizes_of_levels_may_be_a_tensor():
    value, locations = tf.ones((1, 20, 2, 3)), tf.fill((1, 5, 2, 2, 3, 2), 0.5)
    shapes, weights = tf.constant([(4, 4), (2, 2)]), tf.ones((1, 5, 2, 2, 3)) / 6
    output = cudeform.ms_deform_attn(value, shapes, locations, weights)
    np.testing.assert_allclose(output, tf.ones((1, 5, 6)), rtol=1e-6)
    with pytest.raises(TypeError, match="pass a list of numbers"):
        tf.function(cudeform.ms_deform_attn)(value, shapes, locations, weights)
