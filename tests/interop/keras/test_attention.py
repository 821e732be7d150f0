"""The attention layer under the backend that KERAS_BACKEND names."""

import keras
import numpy as np
import pytest
from keras import ops
from support.kerascases import quiet

import cudeform
from cudeform.keras import BACKEND, MultiScaleDeformableAttention
from cudeform.sums.rays import rays

pytestmark = quiet

RNG = np.random.default_rng(0)
SHAPES = ((5, 4), (3, 2))
SIZES = 4, 2, 3  # heads, levels, points
QUERY = RNG.standard_normal((2, 6, 7), dtype="float32")
VALUE = RNG.standard_normal((2, 26, 5), dtype="float32")
PADDED = RNG.random((2, 26)) < 0.3
POINTS, BOXES = (RNG.random((2, 6, 2, numbers), dtype="float32") for numbers in (2, 4))


def new_layer(**more):
    keras.utils.set_random_seed(0)
    layer = MultiScaleDeformableAttention(8, *SIZES, **more)
    layer.build(QUERY.shape, VALUE.shape)
    return layer


def projected(layer, name, array):
    kernel, bias = (ops.convert_to_numpy(weight) for weight in getattr(layer, name).weights)
    return array @ kernel + bias


def composed(layer, points, padded=None):
    """The layer's output, from its weights by NumPy and ``cudeform.ms_deform_attn``."""
    value = projected(layer, "value_proj", VALUE)
    if padded is not None:
        value = np.where(padded[..., None], 0, value)
    offsets = projected(layer, "sampling_offsets", QUERY).reshape(2, 6, *SIZES, 2)
    weights = np.exp(projected(layer, "attention_weights", QUERY)).reshape(2, 6, 4, 6)
    weights = (weights / weights.sum(-1, keepdims=True)).reshape(2, 6, *SIZES)
    around = points[:, :, None, :, None]
    if points is POINTS:
        locations = around + offsets / np.array(SHAPES)[:, None, ::-1]
    else:
        locations = around[..., :2] + offsets / 3 * around[..., 2:] / 2
    arrays = [each.astype("float32") for each in (locations, weights)]
    output = cudeform.ms_deform_attn(value.reshape(2, 26, 4, 2).astype("float32"), SHAPES, *arrays)
    return projected(layer, "output_proj", output)


@pytest.mark.parametrize("points", [POINTS, BOXES], ids=["points", "boxes"])
@pytest.mark.parametrize("padded", [None, PADDED], ids=["whole", "padded"])
def test_the_output_is_that_of_the_projections_and_the_operator(points, padded):
    layer = new_layer()
    layer.set_weights(
        [RNG.standard_normal(weight.shape, dtype="float32") for weight in layer.weights]
    )
    output = ops.convert_to_numpy(layer(QUERY, VALUE, points, spatial_shapes=SHAPES, padded=padded))
    np.testing.assert_allclose(output, composed(layer, points, padded), rtol=1e-4, atol=1e-4)


def test_a_new_layer_looks_along_rays_with_equal_weights():
    layer = new_layer()
    offsets = projected(layer, "sampling_offsets", QUERY)
    np.testing.assert_allclose(offsets.reshape(2, 6, *SIZES, 2)[1, 2], rays(*SIZES), atol=1e-6)
    assert not projected(layer, "attention_weights", QUERY).any()


def model():
    keras.utils.set_random_seed(0)
    query, value = keras.Input((None, 7)), keras.Input((26, 5))
    points = keras.Input((None, 2, 2))
    output = MultiScaleDeformableAttention(8, *SIZES)(query, value, points, spatial_shapes=SHAPES)
    assert output.shape == (None, None, 8)
    return keras.Model([query, value, points], output)


def test_fit_lowers_the_loss_and_saving_keeps_the_predictions(tmp_path):
    trained, arrays = model(), [QUERY, VALUE, POINTS]
    trained.compile(keras.optimizers.Adam(0.01), "mse")
    assert trained.jit_compile == (BACKEND == "jax")
    wanted = np.tile(QUERY[..., :1], 8)
    losses = trained.fit(arrays, wanted, epochs=3, verbose=0).history["loss"]
    assert losses[0] > losses[1] > losses[2]
    layer = trained.layers[-1]
    assert ops.convert_to_numpy(layer.sampling_offsets.kernel).any()
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    predictions = [each.predict(arrays, verbose=0) for each in (trained, loaded)]
    np.testing.assert_array_equal(*predictions)


def test_the_config_makes_the_same_layer():
    layer = MultiScaleDeformableAttention(12, 3, 1, 2, None, name="attention", dtype="float64")
    again = MultiScaleDeformableAttention.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_locations_are_not_in_half_precision(policy, monkeypatch):
    seen = []

    def spy(value, shapes, locations, weights):
        seen.extend(keras.backend.standardize_dtype(a.dtype) for a in (value, locations, weights))
        return cudeform.ms_deform_attn(value, shapes, locations, weights)

    monkeypatch.setattr("cudeform.keras.attention.ms_deform_attn", spy)
    layer = new_layer(dtype=policy)
    half, wide = policy.removeprefix("mixed_"), "float64" if policy == "float64" else "float32"
    if wide == "float64" and BACKEND == "jax":
        pytest.skip("JAX's float64 is off by default")
    output = layer(QUERY, VALUE, POINTS, spatial_shapes=SHAPES)
    assert keras.backend.standardize_dtype(output.dtype) == half
    assert seen == [half, wide, wide]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="num_heads = 3 must divide channels, got 8"):
        MultiScaleDeformableAttention(8, 3)
    with pytest.raises(ValueError, match="must end in 2 numbers"):
        new_layer()(QUERY, VALUE, POINTS[..., :1], spatial_shapes=SHAPES)
    with pytest.raises(ValueError, match="value"):
        new_layer()(QUERY, VALUE[:, 1:], POINTS, spatial_shapes=SHAPES)
