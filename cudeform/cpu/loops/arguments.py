"""The arguments of the loops other than flat arrays: sizes, and layouts of planes and columns."""

from __future__ import annotations

from math import gcd, prod
from typing import Any, NamedTuple

from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.unrolled import per_axis
from cudeform.cpu.loops.vectors import pointer_to
from cudeform.geometry import Geometry
from cudeform.settings import PerAxis


class Sizes(NamedTuple):
    """The part of a geometry that the loops need; tuples have one number per axis."""

    size: PerAxis  # of an image, in pixels
    steps: PerAxis  # distance of neighbouring pixels along each axis, in elements of an image
    channels: int
    out: PerAxis
    out_pixels: int
    kernel: PerAxis
    taps: int
    stride: PerAxis
    pad_begin: PerAxis
    dilation: PerAxis
    offset_groups: int
    group_channels: int  # channels of a group of the columns
    run: int  # number of contiguous channels with one offset group and one group of the columns

    @classmethod
    def of(cls, g: Geometry, columns_groups: int) -> Sizes:
        """The sizes of ``g``, for columns that are stored in ``columns_groups`` groups."""
        group_channels = g.channels // columns_groups
        return cls(
            size=g.size,
            steps=tuple(prod(g.size[axis + 1 :]) * g.channels for axis in range(g.axes)),
            channels=g.channels,
            out=g.out,
            out_pixels=g.out_pixels,
            kernel=g.kernel,
            taps=g.taps,
            stride=g.stride,
            pad_begin=g.pad_begin,
            dilation=g.dilation,
            offset_groups=g.offset_groups,
            group_channels=group_channels,
            run=max(1, gcd(group_channels, g.channels // g.offset_groups)),
        )


class Planes(NamedTuple):
    """Layout of an array (images, channels, positions) in a flat array.

    Position ``p`` of image ``n`` and channel ``c`` is element
    ``n * image + c * channel + p - origin``.
    """

    image: int
    channel: int
    origin: int


class Samples(NamedTuple):
    """Offset and mask, or arrays of the same shapes: their tangents or gradients. Flat.

    Attributes:
        offset: one plane per axis for each tap and offset group, in two dimensions dy and dx.
        offset_planes: layout of the offset.
        mask: one plane for each tap and offset group; empty if there is no mask.
        mask_planes: layout of the mask.
    """

    offset: Any
    offset_planes: Planes
    mask: Any
    mask_planes: Planes


class ColumnLayout(NamedTuple):
    """The positions of an array of columns.

    Attributes:
        positions: number of positions that the array has memory for.
        origin: the first position, numbered through the images.
    """

    positions: int
    origin: int


@inlined
def pointers(samples: Any) -> Any:
    """Samples with pointers in place of the arrays."""
    return Samples(
        pointer_to(samples.offset),
        samples.offset_planes,
        pointer_to(samples.mask),
        samples.mask_planes,
    )


@inlined
def plane_index(planes: Any, n: Any, channel: Any, pixel: Any) -> Any:
    """Index of a pixel of an image in one of its planes."""
    return n * planes.image + channel * planes.channel + pixel - planes.origin


@inlined
def offset_index(axis: Any, axes: Any, planes: Any, n: Any, plane: Any, pixel: Any) -> Any:
    """Index of the displacement along an axis; ``plane`` is the plane of the sample in the mask."""
    return plane_index(planes, n, len(axes) * plane + axis, pixel)


@inlined
def plane_indices(sizes: Any, samples: Any, n: Any, position: Any, tap: Any, og: Any) -> Any:
    """Indices of a sample in the offset, one per axis, and in the mask."""
    plane = og * sizes.taps + tap
    pixel = position - n * sizes.out_pixels
    offset = samples.offset_planes, n, plane, pixel
    return (
        per_axis(sizes.size, offset_index, (sizes.size, *offset)),
        plane_index(samples.mask_planes, n, plane, pixel),
    )
