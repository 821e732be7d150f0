"""Gradients, and their gradients, to the last bit; forward mode; no unneeded gradients."""

import numpy as np
import pytest
import tensorflow as tf
from support.tensorflowcases import (
    CASE,
    NAMES,
    SETTINGS,
    convolve,
    expected_backward,
    quiet,
    same_bits,
    tensors,
)

import cudeform
from cudeform import engine

pytestmark = quiet

GRAD_OUTPUT = tf.constant(CASE.grad_output)
DIRECTIONS = [
    tf.constant(np.random.default_rng(7).standard_normal(getattr(CASE, name).shape))
    for name in NAMES
]
SECOND = ("grad_output", *NAMES)


def first_gradients(function, operands, grad_output=GRAD_OUTPUT):
    with tf.GradientTape() as tape:
        tape.watch(operands)
        output = function(*operands)
    return tape.gradient(output, operands, grad_output)


def second_gradients(function, operands, grad_output):
    with tf.GradientTape() as tape:
        tape.watch([grad_output, *operands])
        grads = first_gradients(function, operands, grad_output)
    return tape.gradient(grads, [grad_output, *operands], DIRECTIONS)


TAPE_OUTSIDE = {
    "eager": lambda gradients: lambda *call: gradients(convolve, *call),
    "tape around a function": lambda gradients: (
        lambda *call: gradients(tf.function(convolve), *call)
    ),
    "tape in a function": lambda gradients: tf.function(lambda *call: gradients(convolve, *call)),
}
everywhere = pytest.mark.parametrize("where", TAPE_OUTSIDE.values(), ids=TAPE_OUTSIDE)


@everywhere
def test_the_gradient_is_the_backward(where):
    found = where(first_gradients)(tensors())
    for name, grad in zip(NAMES, found, strict=True):
        assert same_bits(grad, getattr(expected_backward(), name)), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_gradient_has_its_operands_dtype(dtype):
    case = CASE.cast(dtype)
    found = first_gradients(convolve, tensors(case), tf.constant(case.grad_output))
    for name, grad in zip(NAMES, found, strict=True):
        assert same_bits(grad, getattr(expected_backward(case), name)), name


@everywhere
def test_the_gradient_of_the_gradient_is_the_double_backward(where):
    found = where(second_gradients)(tensors(), GRAD_OUTPUT)
    cotangents = cudeform.Tangents(*(each.numpy() for each in DIRECTIONS))
    expected = cudeform.deform_conv2d_double_backward(cotangents, **CASE.backward_arguments)
    for name, grad in zip(SECOND, found, strict=True):
        if name == "bias":  # no gradient depends on it
            assert grad is None or not np.any(grad)
        else:
            assert same_bits(grad, getattr(expected, name)), name


def test_gradients_of_a_graph_by_name():
    """``tf.gradients``, in a function and in a session of TensorFlow 1."""
    operands = tensors()
    found = tf.function(lambda *operands: tf.gradients(convolve(*operands), operands, GRAD_OUTPUT))
    with tf.Graph().as_default():
        nodes = [tf.compat.v1.placeholder(t.dtype, [None, *t.shape[1:]]) for t in operands]
        grads = tf.gradients(convolve(*nodes), nodes, CASE.grad_output)
        with tf.compat.v1.Session() as session:
            values = {node: t.numpy() for node, t in zip(nodes, operands, strict=True)}
            in_session = session.run(grads, values)
    for name, grad, array in zip(NAMES, found(*operands), in_session, strict=True):
        expected = getattr(expected_backward(), name)
        assert same_bits(grad, expected), name
        assert array.tobytes() == expected.tobytes(), name


def test_gradients_flow_through_a_loop():
    input, offset, *_ = tensors()
    image, displaced = input[:, :, :2, :3], offset[:, :2]
    kernel = tf.reshape(tf.eye(input.shape[1], dtype=input.dtype), (*[input.shape[1]] * 2, 1, 1))

    @tf.function
    def looped(image):
        found = image
        for _ in tf.range(3):
            found = cudeform.deform_conv2d(found, displaced, kernel)
        return found

    def unrolled(image):
        for _ in range(3):
            image = cudeform.deform_conv2d(image, displaced, kernel)
        return image

    grads = []
    for function in (looped, unrolled):
        with tf.GradientTape() as tape:
            tape.watch(image)
            output = function(image)
        grads.append(tape.gradient(output, image))
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [convolve, tf.function(convolve)], ids=["eager", "graph"])
def test_forward_mode_is_the_jvp(function):
    """An accumulator around a function transposes its gradient, which is a function too."""
    operands = tensors()
    with tf.autodiff.ForwardAccumulator(operands, DIRECTIONS) as accumulator:
        output = function(*operands)
    tangents = cudeform.Tangents(*(each.numpy() for each in DIRECTIONS))
    expected = cudeform.deform_conv2d_jvp(tangents, **CASE.arguments)
    np.testing.assert_allclose(accumulator.jvp(output), expected, rtol=1e-11, atol=1e-11)


def test_the_public_derivatives_take_tensors_and_have_gradients():
    operands = dict(zip(NAMES, tensors(), strict=True))
    watched = [*operands.values(), GRAD_OUTPUT, *DIRECTIONS]
    tangents = cudeform.Tangents(*DIRECTIONS)
    numpy_tangents = cudeform.Tangents(*(each.numpy() for each in DIRECTIONS))
    with tf.GradientTape() as tape:
        tape.watch(watched)
        tangent = cudeform.deform_conv2d_jvp(tangents, **operands, **SETTINGS)
    found = tape.gradient(tangent, [*operands.values(), *DIRECTIONS], GRAD_OUTPUT)
    assert same_bits(tangent, cudeform.deform_conv2d_jvp(numpy_tangents, **CASE.arguments))
    second = cudeform.deform_conv2d_double_backward(numpy_tangents, **CASE.backward_arguments)
    for name, grad in zip(NAMES, found, strict=False):
        assert name == "bias" or same_bits(grad, getattr(second, name)), name
    for name, grad in zip(NAMES, found[len(NAMES) :], strict=True):
        assert same_bits(grad, getattr(expected_backward(), name)), name

    grads = cudeform.deform_conv2d_backward(GRAD_OUTPUT, **operands, **SETTINGS, needs=("offset",))
    assert same_bits(grads.offset, expected_backward().offset)
    assert grads.input is None
    doubled = cudeform.deform_conv2d_double_backward(tangents, GRAD_OUTPUT, **operands, **SETTINGS)
    assert same_bits(doubled.offset, second.offset)


def test_an_eager_tape_gets_no_gradients_that_nobody_watches(monkeypatch):
    seen = []
    backward = engine.backward

    def spy(*call):
        grads = call[4]
        seen.append([name for name in NAMES if getattr(grads, name) is not None])
        backward(*call)

    monkeypatch.setattr(engine, "backward", spy)
    operands = tensors()
    with tf.GradientTape() as tape:
        tape.watch([operands[1], operands[2]])
        output = convolve(*operands)
    tape.gradient(output, operands)
    assert seen == [["offset", "weight"]]


def test_jacobians_and_vectorized_map_loop():
    input, offset, weight, *_ = tensors()
    image, displaced = input[:1, :, :2, :2], offset[:1, :2, :2, :2]
    kernel = weight[:1, :1, :1, :1] * tf.ones((1, input.shape[1], 1, 1), input.dtype)
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = cudeform.deform_conv2d(image, displaced, kernel)
    jacobian = tape.jacobian(output, image)
    direction = tf.ones_like(image)
    tangent = cudeform.deform_conv2d_jvp(
        cudeform.Tangents(input=direction), image, displaced, kernel
    )
    np.testing.assert_allclose(tf.reduce_sum(jacobian, (4, 5, 6, 7)), tangent, rtol=1e-12)
    mapped = tf.vectorized_map(
        lambda each: cudeform.deform_conv2d(each[None], displaced, kernel), tf.repeat(image, 3, 0)
    )
    np.testing.assert_allclose(mapped, tf.repeat(output[None], 3, 0), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "size", "kernel"), [("1d", (7,), (3,)), ("3d", (3, 4, 5), (2, 3, 2))]
)
@pytest.mark.parametrize("traced", [False, True])
def test_other_numbers_of_axes_have_numpys_bits(name, size, kernel, traced):
    operator = getattr(cudeform, f"deform_conv{name}")
    backward = getattr(cudeform, f"deform_conv{name}_backward")
    out = [s - k + 1 for s, k in zip(size, kernel, strict=True)]
    rng = np.random.default_rng(0)
    shapes = (2, 4, *size), (2, len(size) * np.prod(kernel), *out), (6, 4, *kernel), (2, 6, *out)
    *arrays, grad_output = [rng.standard_normal(shape) for shape in shapes]
    operands = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(operands)
        output = (tf.function(operator) if traced else operator)(*operands)
    assert same_bits(output, operator(*arrays))
    expected = backward(grad_output, *arrays)
    for grad, array in zip(tape.gradient(output, operands, grad_output), expected, strict=False):
        assert same_bits(grad, array)
