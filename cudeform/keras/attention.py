"""The layer of multi-scale deformable attention."""

from __future__ import annotations

from math import prod
from typing import Any

import keras
from keras import ops

from cudeform.operators.deform_attn import ms_deform_attn
from cudeform.options import current, options
from cudeform.sums.rays import rays
from cudeform.sums.settings import SpatialShapes

from .convolution import BACKEND

SETTINGS = "channels", "num_heads", "num_levels", "num_points", "boundary_grad"


@keras.saving.register_keras_serializable(package="cudeform")
class MultiScaleDeformableAttention(keras.layers.Layer):  # type: ignore[misc]
    """Attention to a few points of each level of a pyramid, as in Deformable DETR.

    From each query the layer predicts where each head looks (``sampling_offsets``, in pixels of the
    level) and how much each point counts (``attention_weights``, before a softmax). The projections
    have the names that PyTorch's layers of this kind have, and their kernels are the transposes. At
    first all weights are equal, and the points of a head lie on a ray from the reference point.

    Args:
        channels: channels of the output.
        num_heads: heads; the channels are divided among them.
        num_levels: levels of the pyramid.
        num_points: points of each query, head and level.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Locations and weights are computed in float32 if the layer computes in half precision.

    Raises:
        ValueError: ``num_heads`` does not divide ``channels``, or shapes do not fit.

    Example:
        >>> import keras
        >>> layer = MultiScaleDeformableAttention(32, num_heads=4, num_levels=2)
        >>> value, query = keras.ops.ones((1, 8 * 8 + 4 * 4, 32)), keras.ops.ones((1, 5, 32))
        >>> points = keras.ops.full((1, 5, 2, 2), 0.5)  # x, y of each query on each level
        >>> layer(query, value, points, spatial_shapes=((8, 8), (4, 4))).shape == (1, 5, 32)
        True
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        boundary_grad: str | None = "zero",
        **kwargs: Any,
    ) -> None:
        """Make the four projections."""
        # Casting the reference points to half precision would move them by fractions of a pixel.
        super().__init__(**{"autocast": False} | kwargs)
        if channels % num_heads:
            raise ValueError(f"num_heads = {num_heads} must divide channels, got {channels}")
        self.channels, self.num_heads = channels, num_heads
        self.num_levels, self.num_points = num_levels, num_points
        self.boundary_grad = boundary_grad
        self.sizes = num_heads, num_levels, num_points
        samples = prod(self.sizes)

        def along_rays(shape: Any, dtype: Any = None) -> Any:
            return ops.reshape(ops.convert_to_tensor(rays(*self.sizes), dtype), shape)

        def dense(name: str, units: int, **initial: Any) -> Any:
            return keras.layers.Dense(units, name=name, dtype=self.dtype_policy, **initial)

        self.sampling_offsets = dense(
            "sampling_offsets",
            2 * samples,
            kernel_initializer="zeros",
            bias_initializer=along_rays,
        )
        self.attention_weights = dense("attention_weights", samples, kernel_initializer="zeros")
        self.value_proj = dense("value_proj", channels)
        self.output_proj = dense("output_proj", channels)
        if BACKEND == "tensorflow":
            self.supports_jit = False  # XLA cannot call Python there

    def build(self, query_shape: Any, value_shape: Any) -> None:
        """Make the weights of the projections."""
        self.sampling_offsets.build(query_shape)
        self.attention_weights.build(query_shape)
        self.value_proj.build(value_shape)
        self.output_proj.build((*query_shape[:2], self.channels))
        self.built = True

    def call(
        self,
        query: Any,
        value: Any,
        reference_points: Any,
        *,
        spatial_shapes: SpatialShapes,
        padded: Any = None,
    ) -> Any:
        """Attend.

        Args:
            query: (N, Lq, any number of channels).
            value: (N, S, any number of channels): the pixels of all levels, one level behind the
                other.
            reference_points: (N, Lq, levels, 2): x and y in [0, 1] that offsets are added to; or
                (N, Lq, levels, 4): centre, width and height of a box, whose half is the unit of
                ``num_points`` pixels.
            spatial_shapes: (height, width) of each level, numbers; Keras takes it by name only.
            padded: (N, S), true where a value counts as zero.

        Returns:
            (N, Lq, channels).
        """
        value = self.value_proj(value)
        if padded is not None:
            value = ops.where(ops.cast(padded, "bool")[..., None], ops.zeros_like(value), value)
        value = ops.reshape(value, (*ops.shape(value)[:2], self.num_heads, -1))
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        batch = ops.shape(query)[:2]
        offsets = ops.cast(self.sampling_offsets(query), dtype)
        offsets = ops.reshape(offsets, (*batch, *self.sizes, 2))
        weights = ops.cast(self.attention_weights(query), dtype)
        weights = ops.softmax(ops.reshape(weights, (*batch, self.num_heads, -1)))
        weights = ops.reshape(weights, (*batch, *self.sizes))
        locations = _locations(ops.cast(reference_points, dtype), offsets, spatial_shapes)
        with options(boundary_grad=self.boundary_grad or current().boundary_grad):
            output = ms_deform_attn(value, spatial_shapes, locations, weights)
        return self.output_proj(output)

    def compute_output_spec(self, query: Any, *_: Any, **__: Any) -> Any:
        """The output's shape and dtype, without running the layer."""
        return keras.KerasTensor((*query.shape[:2], self.channels), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), **{name: getattr(self, name) for name in SETTINGS}}


def _locations(reference_points: Any, offsets: Any, spatial_shapes: SpatialShapes) -> Any:
    """Normalised locations (N, Lq, heads, levels, points, 2) from offsets of that shape."""
    around = reference_points[:, :, None, :, None]
    numbers = reference_points.shape[-1]
    if numbers == 2:
        sizes = ops.convert_to_tensor(spatial_shapes, offsets.dtype)
        return around + offsets / ops.flip(sizes, -1)[:, None]
    if numbers == 4:
        return around[..., :2] + offsets / offsets.shape[-2] * around[..., 2:] * 0.5
    raise ValueError(
        "reference_points must end in 2 numbers (x, y) or in 4 (x, y, width, height), "
        f"got the shape {tuple(reference_points.shape)}"
    )
