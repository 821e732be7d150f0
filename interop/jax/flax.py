"""Layers of Flax NNX: deformable convolutions that predict their offsets, deformable attention.

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
import numpy as np
from flax import nnx

from cudeform.arrays import Operands
from cudeform.family import DEFORM_CONV1D, DEFORM_CONV2D, DEFORM_CONV3D, MS_DEFORM_ATTN
from cudeform.options import current, options
from cudeform.settings import Ints, Padding, Settings, as_ints, as_padding
from cudeform.spec import Operator
from cudeform.sums.rays import rays
from cudeform.sums.settings import AttentionSettings, SpatialShapes

from . import ADAPTER

DTYPE = jnp.float32  # dtype of the parameters, even if JAX's default is float64

_initialize = jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)


class _DeformConv(nnx.Module):  # type: ignore[misc]
    """A deformable convolution that predicts its offsets; subclasses say of which operator.

    Attributes:
        operator: the entry of the operator in the table.
        settings: settings of the calls, as integers per axis.
        displaced: channels of the offset.
    """

    operator: Operator

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        offset_groups: int = 1,
        *,
        bias: bool = True,
        modulated: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        """Make the parameters ``weight``, ``bias``, ``branch_weight`` and ``branch_bias``."""
        axes = self.operator.axes
        kernel = as_ints("kernel_size", kernel_size, 1, axes)
        self.settings = Settings(
            as_ints("stride", stride, 1, axes),
            as_padding(padding, axes, kernel, stride, dilation),
            as_ints("dilation", dilation, 1, axes),
        )
        taps = offset_groups * prod(kernel)
        self.displaced = axes * taps
        predicted = self.displaced + (taps if modulated else 0)
        shape = out_channels, in_channels // groups, *kernel
        self.weight = nnx.Param(_initialize(rngs.params(), shape, DTYPE))
        self.bias = nnx.Param(jnp.zeros(out_channels, DTYPE)) if bias else None
        self.branch_weight = nnx.Param(jnp.zeros((predicted, in_channels, *kernel), DTYPE))
        self.branch_bias = nnx.Param(jnp.zeros(predicted, DTYPE))

    def __call__(self, images: Any) -> Any:
        """Convolve images, (N, C, *size)."""
        images = jnp.asarray(images)  # converts NumPy dtypes that JAX does not use
        predicted = self._predict(images)
        offset, rest = jnp.split(predicted, [self.displaced], axis=1)
        mask = jax.nn.sigmoid(rest) if rest.shape[1] else None
        weight = self.weight[...].astype(images.dtype)
        bias = None if self.bias is None else self.bias[...].astype(images.dtype)
        operands = Operands(images, offset, weight, bias, mask)
        return ADAPTER.forward(self.operator, operands, self.settings)

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
        return product + jnp.expand_dims(bias, range(1, 1 + self.operator.axes))


class DeformConv1d(_DeformConv):
    """:class:`DeformConv2d` in one dimension; sizes are those of ``cudeform.deform_conv1d``.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from cudeform.interop.jax.flax import DeformConv1d
        >>> layer = DeformConv1d(3, 8, kernel_size=5, padding=2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 3, 16))).shape
        (1, 8, 16)
    """

    operator = DEFORM_CONV1D


class DeformConv2d(_DeformConv):
    """DCNv2, or DCNv1 if not ``modulated``; sizes are those of ``cudeform.deform_conv2d``.

    The branch is an ordinary convolution of the same sizes. Its parameters are initially zero, so
    no tap is displaced, and the mask, which is a sigmoid, is one half. The layer computes in the
    dtype of the images.
    """

    operator = DEFORM_CONV2D


class DeformConv3d(_DeformConv):
    """:class:`DeformConv2d` in three dimensions; sizes are those of ``cudeform.deform_conv3d``.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from cudeform.interop.jax.flax import DeformConv3d
        >>> layer = DeformConv3d(3, 8, kernel_size=(1, 3, 3), padding=(0, 1, 1), rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 3, 4, 6, 6))).shape
        (1, 8, 4, 6, 6)
    """

    operator = DEFORM_CONV3D


class MultiScaleDeformableAttention(nnx.Module):  # type: ignore[misc]
    """Attention to a few points of each level of a pyramid, as in Deformable DETR.

    From each query the layer predicts where each head looks (``sampling_offsets``, in pixels of the
    level) and how much each point counts (``attention_weights``, before a softmax). The projections
    have the names that PyTorch's layers of this kind have. At first all weights are equal, and the
    points of a head lie on a ray from the reference point.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from cudeform.interop.jax.flax import MultiScaleDeformableAttention
        >>> layer = MultiScaleDeformableAttention(32, num_heads=4, num_levels=2, rngs=nnx.Rngs(0))
        >>> value, query = jnp.ones((1, 8 * 8 + 4 * 4, 32)), jnp.ones((1, 5, 32))
        >>> points = jnp.full((1, 5, 2, 2), 0.5)  # x, y of each query on each level
        >>> layer(query, value, points, [(8, 8), (4, 4)]).shape
        (1, 5, 32)
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        *,
        boundary_grad: str | None = "zero",
        rngs: nnx.Rngs,
    ) -> None:
        """Make the four projections; ``boundary_grad`` None takes the option in force."""
        if channels % num_heads:
            raise ValueError(f"num_heads = {num_heads} must divide channels, got {channels}")
        self.sizes, self.boundary_grad = (num_heads, num_levels, num_points), boundary_grad
        samples = prod(self.sizes)
        zeros = jax.nn.initializers.zeros
        new_offsets = rays(*self.sizes).ravel()

        def linear(outputs: int, **initial: Any) -> Any:
            return nnx.Linear(channels, outputs, param_dtype=DTYPE, rngs=rngs, **initial)

        self.sampling_offsets = linear(
            2 * samples, kernel_init=zeros, bias_init=lambda *_: jnp.asarray(new_offsets, DTYPE)
        )
        self.attention_weights = linear(samples, kernel_init=zeros)
        xavier = jax.nn.initializers.xavier_uniform()
        self.value_proj = linear(channels, kernel_init=xavier)
        self.output_proj = linear(channels, kernel_init=xavier)

    def __call__(
        self,
        query: Any,
        value: Any,
        reference_points: Any,
        spatial_shapes: SpatialShapes,
        padded: Any = None,
    ) -> Any:
        """Attend.

        Args:
            query: (N, Lq, channels).
            value: (N, S, channels): the pixels of all levels, one level behind the other.
            reference_points: (N, Lq, levels, 2): x and y in [0, 1] that offsets are added to; or
                (N, Lq, levels, 4): centre, width and height of a box, whose half is the unit of
                ``num_points`` pixels.
            spatial_shapes: (height, width) of each level, numbers.
            padded: (N, S), true where a value counts as zero.

        Returns:
            (N, Lq, channels).
        """
        heads = self.sizes[0]
        value = self.value_proj(value)
        if padded is not None:
            value = jnp.where(jnp.asarray(padded)[..., None], 0, value)
        value = value.reshape(*value.shape[:2], heads, -1)
        offsets = self.sampling_offsets(query).reshape(*query.shape[:2], *self.sizes, 2)
        weights = self.attention_weights(query).reshape(*query.shape[:2], heads, -1)
        weights = jax.nn.softmax(weights).reshape(offsets.shape[:-1])
        locations = _locations(jnp.asarray(reference_points), offsets, spatial_shapes)
        dtype = DTYPE if value.dtype.itemsize == 2 else value.dtype
        locations, weights = (each.astype(dtype) for each in (locations, weights))
        operands = Operands(value, locations, mask=weights)
        with options(boundary_grad=self.boundary_grad or current().boundary_grad):
            output = ADAPTER.forward(MS_DEFORM_ATTN, operands, AttentionSettings(spatial_shapes))
        return self.output_proj(output)


def _locations(reference_points: Any, offsets: Any, spatial_shapes: SpatialShapes) -> Any:
    around = reference_points[:, :, None, :, None]
    if reference_points.shape[-1] == 2:
        sizes = np.array(spatial_shapes)[:, None, ::-1]
        return around + offsets / sizes
    if reference_points.shape[-1] == 4:
        return around[..., :2] + offsets / offsets.shape[-2] * around[..., 2:] * 0.5
    raise ValueError(
        "reference_points must end in 2 numbers (x, y) or in 4 (x, y, width, height), "
        f"got the shape {reference_points.shape}"
    )
