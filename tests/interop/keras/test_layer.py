"""The layer under the backend that KERAS_BACKEND names: Conv2D's results, learning, saving."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from support.kerascases import IMAGES, SHIFTED, model, quiet

import cudeform
from cudeform.keras import BACKEND, DeformConv2D

pytestmark = quiet


RNG = np.random.default_rng(1)


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def convolves_channels_first():
    """Whether the backend can; TensorFlow on a CPU can with oneDNN alone."""
    ones = np.ones((1, 1, 1, 1), "float32")
    try:
        ops.conv(ones, ones, data_format="channels_first")
    except Exception as error:
        if "only supports the NHWC tensor format on the CPU" in str(error):
            return False
        raise
    return True


def test_the_arguments_are_those_of_conv2d_in_its_order():
    def parameters(layer):
        found = list(inspect.signature(layer).parameters.values())
        return [(each.name, each.default) for each in found]

    added = "offset_groups", "modulated", "offset_initializer"
    ours = [each for each in parameters(DeformConv2D) if each[0] not in added]
    assert ours == parameters(keras.layers.Conv2D)


def test_weights_have_the_names_and_the_layout_of_conv2d():
    layer, expected = DeformConv2D(4, (3, 2), groups=2), keras.layers.Conv2D(4, (3, 2), groups=2)
    for each in (layer, expected):
        each.build((None, 8, 8, 6))
    shapes = [(weight.name, weight.shape) for weight in expected.weights]
    branch = [("offset_kernel", (3, 2, 6, 18)), ("offset_bias", (18,))]
    assert [(weight.name, weight.shape) for weight in layer.weights] == [*shapes, *branch]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (1, 2), (2, 1), (3, 1), ((2, 3), 1)])
def test_without_displacement_it_is_conv2d(strides, dilation, padding, data_format):
    if data_format == "channels_first" and not convolves_channels_first():
        pytest.skip("TensorFlow's convolution takes channels last only on this CPU")
    arguments = (4, (3, 2), strides, padding, data_format, dilation)
    images = IMAGES if data_format == "channels_last" else IMAGES.transpose(0, 3, 1, 2)
    layer, expected = DeformConv2D(*arguments, modulated=False), keras.layers.Conv2D(*arguments)
    layer.build(images.shape)
    expected.build(images.shape)
    kernel, bias = expected.get_weights()
    layer.set_weights([kernel, bias + 1, *layer.get_weights()[2:]])
    expected.set_weights([kernel, bias + 1])
    output, correct = numbers(layer(images)), numbers(expected(images))
    assert output.shape == layer.compute_output_shape(images.shape) == correct.shape
    np.testing.assert_allclose(output, correct, rtol=0, atol=1e-5)
    modulated = DeformConv2D(*arguments, use_bias=False)
    modulated.build(images.shape)
    modulated.set_weights([kernel, *modulated.get_weights()[1:]])
    np.testing.assert_allclose(numbers(modulated(images)), (correct - 1) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("strides", "positions", "pads"), [(2, (5, 5), ((1, 2), (2, 2))), (3, (4, 3), ((2, 2), (1, 1)))]
)
def test_same_with_dilation_and_strides_is_tensorflows(strides, positions, pads):
    """Conv2D refuses both together; a list needs no branch, which is a Conv2D."""
    layer = DeformConv2D(4, 3, strides, "same", dilation_rate=2)
    offset = np.zeros((32, *positions, 18), "float32")
    output = numbers(layer([IMAGES, offset]))
    padded = np.pad(IMAGES, ((0, 0), *pads, (0, 0)))
    kernel = layer.get_weights()[0]
    expected = cudeform.deform_conv2d(
        np.ascontiguousarray(padded.transpose(0, 3, 1, 2)),
        offset.transpose(0, 3, 1, 2),
        kernel.transpose(3, 2, 0, 1),
        stride=strides,
        dilation=2,
    )
    np.testing.assert_allclose(output, expected.transpose(0, 2, 3, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_a_list_brings_offsets_and_masks(masked):
    offset = RNG.standard_normal((32, 10, 9, 18), dtype="float32")
    mask = RNG.random((32, 10, 9, 9), dtype="float32")
    layer = DeformConv2D(4, 3, padding="same")
    given = [IMAGES, offset, mask][: 3 if masked else 2]
    output = numbers(layer(given))
    assert [weight.name for weight in layer.weights] == ["kernel", "bias"]
    first = [array.transpose(0, 3, 1, 2) for array in given]
    kernel = layer.get_weights()[0].transpose(3, 2, 0, 1)
    mask = first[2] if masked else None
    expected = cudeform.deform_conv2d(*first[:2], kernel, padding=1, mask=mask)
    np.testing.assert_allclose(output, expected.transpose(0, 2, 3, 1), rtol=0, atol=1e-5)


def test_fit_lowers_the_loss_and_offsets_learn(tmp_path):
    trained = model()
    trained.compile("adam", "mse")
    losses = trained.fit(IMAGES, SHIFTED, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert losses[0] > losses[1] > losses[2]
    for layer in trained.layers:
        assert np.any(numbers(layer.offset_kernel))
    assert trained.jit_compile == (BACKEND == "jax")

    file = tmp_path / "model.keras"
    trained.save(file)
    loaded = keras.models.load_model(file)
    predictions = [each.predict(IMAGES, verbose=0) for each in (trained, loaded)]
    np.testing.assert_array_equal(*predictions)


def test_a_model_of_lists_is_saved_and_loaded(tmp_path):
    inputs = [keras.Input((10, 9, 3)), keras.Input((10, 9, 18)), keras.Input((10, 9, 9))]
    made = keras.Model(inputs, DeformConv2D(4, 3, padding="same")(inputs))
    assert made.output_shape == (None, 10, 9, 4)
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    arrays = [RNG.random((2, *each.shape[1:]), dtype="float32") for each in inputs]
    predictions = [each.predict(arrays, verbose=0) for each in (made, loaded)]
    np.testing.assert_array_equal(*predictions)


def test_a_model_is_cloned_and_distributed_over_time():
    images = keras.Input((3, 10, 9, 3))
    layer = keras.layers.TimeDistributed(DeformConv2D(2, 3, padding="same"))
    made = keras.Model(images, layer(images))
    cloned = keras.models.clone_model(made)
    cloned.set_weights(made.get_weights())
    frames = IMAGES[:6].reshape(2, 3, 10, 9, 3)
    predictions = [each.predict(frames, verbose=0) for each in (made, cloned)]
    np.testing.assert_array_equal(*predictions)
    single = numbers(layer.layer(IMAGES[:6])).reshape(2, 3, 10, 9, 2)
    np.testing.assert_allclose(predictions[0], single, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_load_model_needs_the_import(tmp_path):
    model().save(tmp_path / "model.keras")
    load = f"import keras; keras.models.load_model({str(tmp_path / 'model.keras')!r})"
    for code, loads in ((load, False), (f"import cudeform.keras; {load}", True)):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == loads, done.stderr
        assert loads or "Could not locate class 'DeformConv2D'" in done.stderr


def test_the_config_makes_the_same_layer():
    layer = DeformConv2D(
        6,
        (3, 2),
        strides=2,
        padding="same",
        groups=3,
        offset_groups=3,
        modulated=False,
        activation="gelu",
        use_bias=False,
        kernel_regularizer="l2",
        kernel_constraint="unit_norm",
        offset_initializer="he_normal",
        name="deformed",
    )
    again = DeformConv2D.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.name == "deformed"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer = DeformConv2D(2, 3, padding="same", dtype=policy)
    assert keras.backend.standardize_dtype(layer(IMAGES).dtype) == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == "float32"
    trained = keras.Sequential([layer])
    trained.compile(keras.optimizers.Adam(0.01), "mse")
    losses = trained.fit(IMAGES, SHIFTED, epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[0]


def test_sizes_may_be_unknown():
    images = keras.Input((None, None, 3))
    made = keras.Model(images, DeformConv2D(4, 3, padding="same")(images))
    assert made.output_shape == (None, None, None, 4)
    for batch in (IMAGES, IMAGES[:3, :7, :5]):
        assert made.predict(batch, verbose=0).shape == (*batch.shape[:3], 4)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="padding must be one of"):
        DeformConv2D(4, 3, padding="causal")
    with pytest.raises(ValueError, match="data_format must be one of"):
        DeformConv2D(4, 3, data_format="NHWC")
    with pytest.raises(ValueError, match="groups = 3 must divide filters, got 4"):
        DeformConv2D(4, 3, groups=3)
    with pytest.raises(ValueError, match="offset_groups = 2 must divide the channels"):
        DeformConv2D(4, 3, offset_groups=2).build((None, 8, 8, 3))
    with pytest.raises(ValueError, match="channels of the input must be known"):
        DeformConv2D(4, 3).build((None, 8, 8, None))


def test_a_list_has_two_or_three_elements():
    offset = np.zeros((32, 10, 9, 18), "float32")
    layer = DeformConv2D(4, 3, padding="same")
    for images in ([IMAGES], [IMAGES] * 4):
        with pytest.raises(ValueError, match=f"got a list of length {len(images)}"):
            layer(images)
    assert layer((IMAGES, offset)).shape == layer([IMAGES, offset, None]).shape == (32, 10, 9, 4)
    with pytest.raises(ValueError, match="was built for a list, so it predicts no offsets"):
        layer(IMAGES)


@pytest.mark.parametrize("make", [keras.Input, lambda shape: np.zeros((2, *shape), "float32")])
def test_sizes_are_checked_in_a_model_and_in_a_call(make):
    layer = DeformConv2D(4, 3, padding="same")
    images, offset = make((10, 9, 3)), make((10, 9, 18))
    with pytest.raises(ValueError, match=r"offset must have shape .*10, 9, 18\), got .*, 16\)"):
        layer([images, make((10, 9, 16))])
    with pytest.raises(ValueError, match=r"mask must have shape .*10, 9, 9\), got .*, 9, 8\)"):
        layer([images, offset, make((10, 9, 8))])
    with pytest.raises(ValueError, match=r"input must have shape \(N, H, W, C\), got"):
        DeformConv2D(4, 3)(make((10, 3)))
    with pytest.raises(ValueError, match=r"too small for kernel_size .* 0 x 7 positions"):
        DeformConv2D(4, 3)(make((2, 9, 3)))
