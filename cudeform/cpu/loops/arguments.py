"""What Python hands to the loops, beside flat arrays: sizes, and where planes and columns lie."""

from __future__ import annotations

from math import gcd, prod
from typing import Any, NamedTuple

from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.unrolled import per_axis
from cudeform.cpu.loops.vectors import pointer_to
from cudeform.geometry import Geometry
from cudeform.settings import PerAxis


class Sizes(NamedTuple):
    """What the loops need of a geometry; tuples have a number an axis."""

    size: PerAxis  # of an image
    steps: PerAxis  # elements of an image from a pixel to the next along an axis
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
    run: int  # channels that share an offset group and a group of the columns

    @classmethod
    def of(cls, g: Geometry, columns_groups: int) -> Sizes:
        """Those of ``g``, with columns in so many groups."""
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
    """Where the planes of an array (images, channels, positions) lie in a flat one.

    Position ``p`` of image ``n`` and channel ``c`` is element
    ``n * image + c * channel + p - origin``.
    """

    image: int
    channel: int
    origin: int


class Samples(NamedTuple):
    """What says where and how strongly the taps sample; arrays are flat and read.

    Attributes:
        offset: a plane an axis for each tap and offset group, in two dimensions dy and dx.
        offset_planes: where they lie.
        mask: one plane a tap and offset group; empty where there is none.
        mask_planes: where they lie.
    """

    offset: Any
    offset_planes: Planes
    mask: Any
    mask_planes: Planes


class ColumnLayout(NamedTuple):
    """Which positions columns are of.

    Attributes:
        positions: how many there is room for.
        origin: the first of them, counted through the images.
    """

    positions: int
    origin: int


@inlined
def pointers(samples: Any) -> Any:
    """The same, with pointers in place of the arrays."""
    return Samples(
        pointer_to(samples.offset),
        samples.offset_planes,
        pointer_to(samples.mask),
        samples.mask_planes,
    )


@inlined
def plane_index(planes: Any, n: Any, channel: Any, pixel: Any) -> Any:
    """Where a plane of an image has a position, counted in the image."""
    return n * planes.image + channel * planes.channel + pixel - planes.origin


@inlined
def offset_index(axis: Any, axes: Any, planes: Any, n: Any, plane: Any, pixel: Any) -> Any:
    """Element of the offset along an axis; ``plane`` is that of the mask."""
    return plane_index(planes, n, len(axes) * plane + axis, pixel)


@inlined
def plane_indices(sizes: Any, samples: Any, n: Any, position: Any, tap: Any, og: Any) -> Any:
    """Elements of the offset by axis and of the mask, for a position, a tap and an offset group."""
    plane = og * sizes.taps + tap
    pixel = position - n * sizes.out_pixels
    offset = samples.offset_planes, n, plane, pixel
    return (
        per_axis(sizes.size, offset_index, (sizes.size, *offset)),
        plane_index(samples.mask_planes, n, plane, pixel),
    )
