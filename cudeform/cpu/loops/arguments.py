"""What Python hands to the loops, beside flat arrays: sizes, and where planes and columns lie."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.vectors import pointer_to
from cudeform.geometry import Geometry


class Sizes(NamedTuple):
    """What the loops need of a geometry."""

    in_h: int
    in_w: int
    channels: int
    out_w: int
    out_pixels: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_left: int
    dilation_h: int
    dilation_w: int
    offset_groups: int
    group_channels: int  # channels of a group of the columns
    run: int  # channels that share an offset group and a group of the columns

    @classmethod
    def of(cls, g: Geometry, columns_groups: int) -> Sizes:
        """Those of ``g``, with columns in so many groups."""
        group_channels = g.channels // columns_groups
        (in_h, in_w), (kernel_h, kernel_w) = g.size, g.kernel
        (stride_h, stride_w), (dilation_h, dilation_w) = g.stride, g.dilation
        pad_top, pad_left = g.pad_begin
        return cls(
            in_h=in_h,
            in_w=in_w,
            channels=g.channels,
            out_w=g.out_cols,
            out_pixels=g.out_pixels,
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=stride_h,
            stride_w=stride_w,
            pad_top=pad_top,
            pad_left=pad_left,
            dilation_h=dilation_h,
            dilation_w=dilation_w,
            offset_groups=g.offset_groups,
            group_channels=group_channels,
            run=max(1, int(np.gcd(group_channels, g.channels // g.offset_groups))),
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
        offset: two planes a tap and offset group, dy and dx.
        offset_planes: where they lie.
        mask: one plane a tap and offset group; empty where there is none.
        mask_planes: where they lie.
    """

    offset: Any
    offset_planes: Planes
    mask: Any
    mask_planes: Planes


class ColumnsAt(NamedTuple):
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
def element(planes: Any, n: Any, channel: Any, pixel: Any) -> Any:
    """Where a plane of an image has a position, counted in the image."""
    return n * planes.image + channel * planes.channel + pixel - planes.origin


@inlined
def planes_at(sizes: Any, samples: Any, n: Any, position: Any, tap: Any, og: Any) -> Any:
    """Elements of offset in y and x and of the mask, for a position, a tap and an offset group."""
    plane = og * sizes.kernel_h * sizes.kernel_w + tap
    at = position - n * sizes.out_pixels
    return (
        element(samples.offset_planes, n, 2 * plane, at),
        element(samples.offset_planes, n, 2 * plane + 1, at),
        element(samples.mask_planes, n, plane, at),
    )
