"""A layer of Flax NNX: deformable convolution with a branch that predicts its offsets.

>>> import jax.numpy as jnp
>>> from flax import nnx
>>> from cudeform.interop.jax.flax import DeformConv2d
>>> layer = DeformConv2d(3, 8, kernel_size=3, padding=1, rngs=nnx.Rngs(0))
>>> layer(jnp.ones((1, 3, 16, 16))).shape
(1, 8, 16, 16)
"""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cudeform.arrays import Operands
from cudeform.family import DEFORM_CONV2D
from cudeform.settings import Padding, Pair, Settings, as_ints, as_padding

from . import ADAPTER

DTYPE = jnp.float32  # dtype of the parameters, even if JAX's default is float64

_initialize = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)


class DeformConv2d(nnx.Module):  # type: ignore[misc]
    """DCNv2, or DCNv1 if not ``modulated``; sizes are those of ``cudeform.deform_conv2d``.

    The branch is an ordinary convolution of the same sizes. Its parameters are initially zero, so
    no tap is displaced, and the mask, which is a sigmoid, is one half. The layer computes in the
    dtype of the images.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        offset_groups: int = 1,
        *,
        bias: bool = True,
        modulated: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        """Make the parameters ``weight``, ``bias``, ``branch_weight`` and ``branch_bias``."""
        kernel = as_ints("kernel_size", kernel_size, 1, 2)
        self.settings = Settings(
            as_ints("stride", stride, 1, 2),
            as_padding(padding, 2, kernel, stride, dilation),
            as_ints("dilation", dilation, 1, 2),
        )
        self.displaced = 2 * offset_groups * prod(kernel)
        predicted = self.displaced // 2 * (3 if modulated else 2)
        shape = out_channels, in_channels // groups, *kernel
        self.weight = nnx.Param(_initialize(rngs.params(), shape, DTYPE))
        self.bias = nnx.Param(jnp.zeros(out_channels, DTYPE)) if bias else None
        self.branch_weight = nnx.Param(jnp.zeros((predicted, in_channels, *kernel), DTYPE))
        self.branch_bias = nnx.Param(jnp.zeros(predicted, DTYPE))

    def __call__(self, images: Any) -> Any:
        """Convolve images, (N, C, H, W)."""
        images = jnp.asarray(images)  # converts NumPy dtypes that JAX does not use
        predicted = self._predict(images)
        offset, rest = jnp.split(predicted, [self.displaced], axis=1)
        mask = jax.nn.sigmoid(rest) if rest.shape[1] else None
        weight = self.weight[...].astype(images.dtype)
        bias = None if self.bias is None else self.bias[...].astype(images.dtype)
        operands = Operands(images, offset, weight, bias, mask)
        return ADAPTER.forward(DEFORM_CONV2D, operands, self.settings)

    def _predict(self, images: Any) -> Any:
        stride, padding, dilation = self.settings
        weight, bias = (p[...].astype(images.dtype) for p in (self.branch_weight, self.branch_bias))
        product = jax.lax.conv_general_dilated(
            images,
            weight,
            window_strides=stride,
            padding=padding,
            rhs_dilation=dilation,
        )
        return product + bias[:, None, None]
