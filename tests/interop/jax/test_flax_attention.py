"""The attention layer of Flax NNX: results, initialisation, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import jaxcpu
from support.jaxcpu import jax, jnp

import cudeform

nnx = pytest.importorskip("flax.nnx")

from cudeform.interop.jax.flax import MultiScaleDeformableAttention  # noqa: E402

SHAPES = [(6, 5), (3, 4)]
HEADS, LEVELS, POINTS, CHANNELS, QUERIES = 3, 2, 4, 12, 7
KEYS = jax.random.split(jax.random.key(0), 4)
QUERY = jax.random.normal(KEYS[0], (2, QUERIES, CHANNELS), "float32")
VALUE = jax.random.normal(KEYS[1], (2, 42, CHANNELS), "float32")
BOXES = jax.nn.sigmoid(jax.random.normal(KEYS[2], (2, QUERIES, LEVELS, 4), "float32"))
PADDED = jax.random.normal(KEYS[3], (2, 42)) > 0.5


def layer_of(**more: Any) -> Any:
    return MultiScaleDeformableAttention(CHANNELS, HEADS, LEVELS, POINTS, **more, rngs=nnx.Rngs(1))


def trained() -> Any:
    """A layer with random parameters."""
    layer = layer_of()
    parameters = nnx.state(layer, nnx.Param)
    keys = iter(jax.random.split(jax.random.key(2), 8))
    nnx.update(
        layer,
        jax.tree.map(lambda p: 0.3 * jax.random.normal(next(keys), p.shape, p.dtype), parameters),
    )
    return layer


@pytest.mark.parametrize("numbers", [2, 4])
def test_the_layer_composed(numbers: int) -> None:
    layer, points = trained(), BOXES[..., :numbers]
    offsets = layer.sampling_offsets(QUERY).reshape(2, QUERIES, HEADS, LEVELS, POINTS, 2)
    weights = layer.attention_weights(QUERY).reshape(2, QUERIES, HEADS, LEVELS * POINTS)
    weights = jax.nn.softmax(weights).reshape(2, QUERIES, HEADS, LEVELS, POINTS)
    unit = (
        points[..., 2:] / (2 * POINTS)
        if numbers == 4
        else 1 / jnp.array(SHAPES, "float32")[:, ::-1]
    )
    unit = jnp.broadcast_to(unit, (2, QUERIES, LEVELS, 2))
    around = points[:, :, None, :, None, :2]
    locations = around + offsets * unit[:, :, None, :, None]
    value = jnp.where(PADDED[..., None], 0, layer.value_proj(VALUE)).reshape(2, 42, HEADS, -1)
    wanted = layer.output_proj(cudeform.ms_deform_attn(value, SHAPES, locations, weights))
    jaxcpu.assert_close(layer(QUERY, VALUE, points, SHAPES, PADDED), wanted, 1e-5)


def test_a_new_layer_looks_along_rays_with_equal_weights() -> None:
    layer = MultiScaleDeformableAttention(16, 8, 2, 3, rngs=nnx.Rngs(0))
    rays = np.asarray(layer.sampling_offsets.bias[...]).reshape(8, 2, 3, 2)
    np.testing.assert_allclose(rays[0, 1], [[1, 0], [2, 0], [3, 0]], atol=1e-6)
    np.testing.assert_allclose(rays[3, 0], [[-1, 1], [-2, 2], [-3, 3]], atol=1e-6)
    for zero in (layer.sampling_offsets.kernel, layer.attention_weights.kernel):
        assert not np.asarray(zero[...]).any()
    assert not np.asarray(layer.attention_weights.bias[...]).any()


def test_training_changes_every_parameter() -> None:
    layer = layer_of()
    points = BOXES[..., :2]

    def loss(layer: Any) -> Any:
        return jnp.mean((layer(QUERY, VALUE, points, SHAPES) - QUERY) ** 2)

    @nnx.jit
    def step(layer: Any) -> Any:
        value, grads = nnx.value_and_grad(loss)(layer)
        state = nnx.state(layer)
        nnx.update(layer, jax.tree.map(lambda p, g: p - 0.1 * g, state, grads))
        return value

    before = jax.tree.map(np.asarray, nnx.state(layer))
    values = [float(step(layer)) for _ in range(10)]
    assert values[-1] < values[0]
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), nnx.state(layer), before)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("rule", ["zero", "one_sided", None])
def test_a_layer_has_the_boundary_grad_that_it_was_given(rule: Any) -> None:
    points = jnp.full((2, QUERIES, LEVELS, 2), 0.5).at[:, :, 1, 0].set(-0.5 / 4)  # x = -1
    slopes = []
    for option in ("zero", "one_sided"):
        layer = layer_of(**({} if rule == "zero" else {"boundary_grad": rule}))
        layer.sampling_offsets.bias[...] = jnp.zeros_like(layer.sampling_offsets.bias[...])

        def total(points: Any, layer: Any = layer) -> Any:
            return layer(QUERY, VALUE, points, SHAPES).sum()

        with cudeform.options(boundary_grad=option):
            slopes.append(np.asarray(jax.grad(total)(points))[:, :, 1, 0])
    assert np.array_equal(*slopes) == (rule is not None)
    assert slopes[0].any() == (rule == "one_sided")


def test_queries_and_values_in_bfloat16() -> None:
    layer = trained()
    wanted = layer(QUERY, VALUE, BOXES, SHAPES)
    low = QUERY.astype("bfloat16"), VALUE.astype("bfloat16")
    jaxcpu.assert_close(layer(*low, BOXES, SHAPES).astype("float32"), wanted, 0.2)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads = 5 must divide channels, got 12"):
        MultiScaleDeformableAttention(12, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must end in 2 numbers"):
        layer_of()(QUERY, VALUE, BOXES[..., :3], SHAPES)
