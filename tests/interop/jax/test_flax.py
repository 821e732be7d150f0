"""Convolutions of Flax NNX: ordinary ones at first; training changes all parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import jaxcpu
from support.jaxcpu import jax, jnp

import cudeform

nnx = pytest.importorskip("flax.nnx")

from cudeform.interop.jax.flax import DeformConv1d, DeformConv2d, DeformConv3d  # noqa: E402

SIZES: dict[str, Any] = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}
GROUPS: dict[str, Any] = {"groups": 2, "offset_groups": 2}
IMAGES = jax.random.normal(jax.random.key(0), (2, 4, 9, 8), "float32")


def layer_of(**more: Any) -> Any:
    return DeformConv2d(4, 6, (3, 2), **SIZES, **GROUPS, **more, rngs=nnx.Rngs(1))


@pytest.mark.parametrize(("modulated", "factor"), [(True, 0.5), (False, 1.0)])
def test_a_new_layer_is_an_ordinary_convolution(modulated: bool, factor: float) -> None:
    layer = layer_of(modulated=modulated)
    layer.bias[...] = jnp.arange(6, dtype="float32")
    wanted = jax.lax.conv_general_dilated(
        IMAGES,
        layer.weight[...],
        SIZES["stride"],
        SIZES["padding"],
        rhs_dilation=SIZES["dilation"],
        feature_group_count=GROUPS["groups"],
    )
    wanted = factor * wanted + layer.bias[...][:, None, None]
    jaxcpu.assert_close(layer(IMAGES), wanted, 1e-5)


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_branch_predicts_offset_and_mask(modulated: bool, bias: bool) -> None:
    layer = layer_of(modulated=modulated, bias=bias)
    keys = jax.random.split(jax.random.key(2))
    for parameter, key in zip((layer.branch_weight, layer.branch_bias), keys, strict=True):
        parameter[...] = 0.2 * jax.random.normal(key, parameter.shape, parameter.dtype)
    predicted = jax.lax.conv_general_dilated(
        IMAGES,
        layer.branch_weight[...],
        SIZES["stride"],
        SIZES["padding"],
        rhs_dilation=SIZES["dilation"],
    )
    predicted = predicted + layer.branch_bias[...][:, None, None]
    taps = 2 * 3 * 2
    wanted = cudeform.deform_conv2d(
        IMAGES,
        predicted[:, : 2 * taps],
        layer.weight[...],
        layer.bias[...] if bias else None,
        mask=jax.nn.sigmoid(predicted[:, 2 * taps :]) if modulated else None,
        **SIZES,
    )
    jaxcpu.assert_close(layer(IMAGES), wanted, 1e-5)


def test_training_changes_every_parameter() -> None:
    layer = layer_of()
    wanted = jnp.sin(jnp.arange(layer(IMAGES).size, dtype="float32")).reshape(layer(IMAGES).shape)

    def loss(layer: Any) -> Any:
        return jnp.mean((layer(IMAGES) - wanted) ** 2)

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


def test_bfloat16_images_give_bfloat16() -> None:
    assert layer_of()(IMAGES.astype("bfloat16")).dtype == "bfloat16"


# Stride, padding, dilation and kernel differ along each axis.
LAYERS = [
    (DeformConv1d, (9,), {"kernel_size": 3, "stride": 2, "padding": ((1, 0),), "dilation": 2}),
    (
        DeformConv3d,
        (5, 7, 6),
        {
            "kernel_size": (1, 3, 2),
            "stride": (2, 1, 1),
            "padding": (0, 1, 2),
            "dilation": (1, 2, 1),
        },
    ),
]


@pytest.mark.parametrize(("layer_type", "size", "sizes"), LAYERS, ids=["1-D", "3-D"])
def test_layers_of_one_and_three_axes(layer_type: Any, size: Any, sizes: dict[str, Any]) -> None:
    layer = layer_type(4, 6, **sizes, **GROUPS, rngs=nnx.Rngs(1))
    images = jax.random.normal(jax.random.key(3), (2, 4, *size), "float32")
    kernel = layer.weight.shape[2:]
    branch = 0.2 * jax.random.normal(jax.random.key(4), layer.branch_weight.shape, "float32")
    layer.branch_weight[...] = branch
    stride, padding, dilation = layer.settings
    predicted = jax.lax.conv_general_dilated(images, branch, stride, padding, rhs_dilation=dilation)
    axes, taps = len(size), 2 * int(np.prod(kernel))
    assert predicted.shape[1] == (axes + 1) * taps
    settings = {name: value for name, value in sizes.items() if name != "kernel_size"}
    wanted = getattr(cudeform, f"deform_conv{axes}d")(
        images,
        predicted[:, : axes * taps],
        layer.weight[...],
        layer.bias[...],
        mask=jax.nn.sigmoid(predicted[:, axes * taps :]),
        **settings,
    )
    jaxcpu.assert_close(layer(images), wanted, 1e-5)
