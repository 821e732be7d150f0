"""Padding by name, and settings as arrays: the function, within jit, and the layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import build
from support.jaxcpu import jax, jnp

import cudeform

SAME = ((3, 3), (0, 1))
CASE = build("same", size=(9, 5), kernel=(4, 2), padding=SAME, dilation=(2, 1)).cast("float32")
SETTINGS = ("stride", "padding", "dilation")
ARRAYS = {n: jnp.asarray(a) for n, a in CASE.arguments.items() if n not in SETTINGS}


@pytest.mark.parametrize("settings", [
    {"padding": "same", "dilation": (2, 1)},
    {"padding": np.array(SAME), "dilation": np.array([2, 1])},
])  # fmt: skip
@pytest.mark.parametrize("jit", [False, True])
def test_the_function(settings: dict[str, Any], jit: bool) -> None:
    def loss(arrays: dict[str, Any], **settings: Any) -> Any:
        return (cudeform.deform_conv2d(**arrays, **settings) ** 2).sum()

    def gradients(settings: dict[str, Any]) -> Any:
        function = jax.grad(lambda arrays: loss(arrays, **settings))
        return (jax.jit(function) if jit else function)(ARRAYS)

    wanted = gradients({"padding": SAME, "dilation": (2, 1)})
    for name, got in gradients(settings).items():
        np.testing.assert_array_equal(got, wanted[name])


def test_the_layer() -> None:
    nnx = pytest.importorskip("flax.nnx")
    from cudeform.interop.jax.flax import DeformConv2d

    images = jnp.zeros((1, 4, 7, 9))
    for padding, shape in (
        ("same", (1, 3, 7, 9)),
        ("valid", (1, 3, 5, 7)),
        (np.ones(2, int), (1, 3, 7, 9)),
    ):
        layer = DeformConv2d(4, 3, 3, padding=padding, rngs=nnx.Rngs(0))
        assert layer(images).shape == shape
