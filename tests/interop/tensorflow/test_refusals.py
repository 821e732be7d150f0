"""Calls that are refused, and their errors."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support.tensorflowcases import CASE, SETTINGS, convolve, quiet, tensors

import cudeform
from cudeform.interop import tensorflow as adapter

pytestmark = quiet


def test_xla_is_refused_when_traced():
    compiled = tf.function(convolve, jit_compile=True)
    with pytest.raises(NotImplementedError, match="cannot be compiled by XLA in TensorFlow"):
        compiled(*tensors())
    nested = tf.function(lambda *operands: tf.function(convolve)(*operands), jit_compile=True)
    with pytest.raises(NotImplementedError, match="without jit_compile, or compile the parts"):
        nested(*tensors())


def test_forward_mode_in_a_graph_is_refused_and_gives_no_zeros():
    operands = tensors()

    @tf.function
    def tangent(*operands):
        with tf.autodiff.ForwardAccumulator(operands[0], tf.ones_like(operands[0])) as accumulator:
            output = convolve(*operands)
        return accumulator.jvp(output)

    with pytest.raises(NotImplementedError, match=r"works only outside of tf\.function"):
        tangent(*operands)


def third_derivative(operands):
    with tf.GradientTape() as third:
        third.watch(operands)
        with tf.GradientTape() as second:
            second.watch(operands)
            with tf.GradientTape() as first:
                first.watch(operands)
                output = convolve(*operands)
            grads = first.gradient(output, operands)
        grads = second.gradient(grads, operands[:2])
    return third.gradient(grads, operands[:2])


@pytest.mark.parametrize("function", [third_derivative, tf.function(third_derivative)])
def test_third_derivatives_are_refused(function):
    with pytest.raises(NotImplementedError, match="no third derivatives"):
        function(tensors())


def test_a_gradient_in_a_graph_has_no_forward_mode():
    operands = tensors()

    @tf.function
    def gradient(*operands):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            output = convolve(*operands)
        return tape.gradient(output, operands[0])

    with (
        tf.autodiff.ForwardAccumulator(operands[0], tf.ones_like(operands[0])),
        pytest.raises(NotImplementedError, match="no forward mode over reverse mode"),
    ):
        gradient(*operands)


def test_forward_over_reverse_says_what_to_do():
    operands = tensors()
    directions = [tf.ones_like(each) for each in operands]
    with tf.autodiff.ForwardAccumulator(operands, directions), tf.GradientTape() as tape:
        tape.watch(operands)
        output = convolve(*operands)
        with pytest.raises(NotImplementedError, match="take a GradientTape over a GradientTape"):
            tape.gradient(output, operands[0])


@pytest.mark.parametrize("traced", [False, True])
def test_dtypes_are_checked_when_the_call_is_made(traced):
    input, offset, *rest = tensors()
    call = tf.function(convolve) if traced else convolve
    with pytest.raises(TypeError, match="offset must have the dtype of input, float64"):
        call(input, tf.cast(offset, "float32"), *rest)
    with pytest.raises(TypeError, match="must have a dtype among float16"):
        call(*(tf.cast(each, "int32") for each in tensors()))


@pytest.mark.parametrize("traced", [False, True])
def test_shapes_are_checked_in_geometrys_words(traced):
    input, offset, weight, *_ = tensors()
    call = tf.function(convolve) if traced else convolve
    with pytest.raises(ValueError, match=r"offset must have shape .* = .*, got"):
        call(input, offset[:, :, 1:], weight)


def test_known_sizes_are_checked_among_unknown_ones():
    offset, weight = tensors()[1:3]
    unknown = tf.TensorSpec([None, CASE.input.shape[1], None, None], offset.dtype)
    function = tf.function(lambda image, offset: convolve(image, offset, weight))
    with pytest.raises(ValueError, match="must be a positive multiple"):
        function.get_concrete_function(unknown, tf.TensorSpec([None, 7, None, None], offset.dtype))
    with pytest.raises(ValueError, match="input must have shape"):
        function.get_concrete_function(tf.TensorSpec([None, 4], offset.dtype), unknown)


def test_unknown_sizes_that_do_not_fit_are_an_error_of_the_run():
    input, offset, weight, *_ = tensors()
    spec = tf.TensorSpec([None] * 4, input.dtype)
    function = tf.function(
        lambda image, offset: convolve(image, offset, weight), input_signature=[spec, spec]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="offset must have shape"):
        function(input, offset[:, :, 1:])


def test_same_with_strides_is_refused_with_channels_last():
    image, offset = tf.ones((1, 8, 8, 3)), tf.zeros((1, 8, 8, 18))
    with pytest.raises(ValueError, match='"same" needs stride 1'):
        adapter.deform_conv2d(image, offset, tf.ones((3, 3, 3, 5)), stride=2, padding="same")


def test_other_arrays_are_refused():
    input, offset, weight, *_ = tensors()
    with pytest.raises(TypeError, match=r"same library as input, tensorflow, .*convert_to_tensor"):
        convolve(input, offset.numpy(), weight)
    with pytest.raises(TypeError, match="must be a tensor of TensorFlow, got ndarray"):
        adapter.deform_conv2d(*(each.numpy() for each in (input, offset, weight)))
    for other, remedy in (
        (tf.sparse.from_dense(input), "tensorflow.sparse.to_dense"),
        (tf.RaggedTensor.from_tensor(input), r"\.to_tensor"),
        (tf.IndexedSlices(input, tf.range(2)), "tensorflow.convert_to_tensor"),
        (tf.TensorSpec(input.shape), "numpy.asarray"),
    ):
        for operands in ((other, offset, weight), (input, other, weight)):
            with pytest.raises(TypeError, match=f"got {type(other).__name__}.*{remedy}"):
                convolve(*operands)
    with pytest.raises(TypeError, match=r"input must have a dtype among .*, got string"):
        convolve(tf.constant("image"), offset, weight)


def test_a_tensor_of_a_keras_model_is_told_about_the_layer():
    keras = pytest.importorskip("keras")
    offset, weight = tensors()[1:3]
    with pytest.raises(TypeError, match="DeformConv2D in a model of Keras"):
        convolve(keras.Input(CASE.input.shape[1:]), offset, weight)


@pytest.mark.slow
def test_another_process_cannot_run_a_saved_model(tmp_path):
    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(t.shape, t.dtype) for t in tensors()])
        def call(self, *operands):
            return convolve(*operands)

    model = Model()
    tf.saved_model.save(model, str(tmp_path))
    assert tf.saved_model.load(str(tmp_path)).call(*tensors()).shape == CASE.grad_output.shape
    shapes = [each.shape.as_list() for each in tensors()]
    code = (
        "import tensorflow as tf; "
        f"tf.saved_model.load({str(tmp_path)!r}).call(*(tf.zeros(s, 'float64') for s in {shapes}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Could not find callback with key=pyfunc_" in done.stderr


@pytest.mark.slow
def test_tflite_has_no_such_operation():
    function = tf.function(convolve).get_concrete_function(*tensors())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    with pytest.raises(Exception, match="EagerPyFunc' op is neither a custom op nor a flex op"):
        converter.convert()


def test_only_tensors_bring_tensorflow():
    code = (
        "import sys, numpy as np, cudeform; a = np.ones((1, 1, 1, 1)); "
        "cudeform.deform_conv2d(a, np.zeros((1, 2, 1, 1)), a); "
        "print({'tensorflow', 'keras'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_settings_may_be_arrays_of_numpy():
    output = cudeform.deform_conv2d(
        *tensors()[:3], **{name: np.array(value) for name, value in SETTINGS.items()}
    )
    assert output.shape == CASE.grad_output.shape


def test_same_needs_a_known_kernel_and_no_stride():
    offset, weight = tensors()[1:3]
    unknown = tf.TensorSpec([None, CASE.input.shape[1], None, None], offset.dtype)

    def same(image, offset, weight=weight, stride=1):
        return cudeform.deform_conv2d(image, offset, weight, padding="same", stride=stride)

    function = tf.function(lambda image, offset: same(image, offset, stride=2))
    with pytest.raises(ValueError, match="depends on the size of the image"):
        function.get_concrete_function(unknown, unknown)
    with pytest.raises(ValueError, match="needs a kernel of known size"):
        tf.function(same).get_concrete_function(
            unknown, unknown, tf.TensorSpec([None] * 4, offset.dtype)
        )
