"""Where the taps of a block of positions sample: from displacements to corners and fractions.

The fraction comes from the displacement alone and the base of a tap is an integer, so a coordinate
keeps the full precision of its displacement however large the image is. Names and rules are those
of ``kernels/sampling.cuh``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    number,
    pointer_to,
    room_for,
    store_vector,
)
from cudeform.geometry import Geometry

int32, int64 = np.int32, np.int64

# Positions that a loop works out at once.
BLOCK = 64

# Flags of a sample: the corners in bounds, in the order top left, top right, bottom left, bottom
# right, and what is special about its coordinate.
TOP, BOTTOM, LEFT, RIGHT = 1 | 2, 4 | 8, 1 | 4, 2 | 8
ALL_CORNERS = TOP | BOTTOM
AT_MINUS_ONE = 16  # a coordinate is exactly -1: the sample is 0 although corners are in bounds
NAN_COORD = 32


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
        fields = {name: getattr(g, name) for name in cls._fields if hasattr(g, name)}
        run = max(1, int(np.gcd(group_channels, g.channels // g.offset_groups)))
        return cls(**fields, group_channels=group_channels, run=run)


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


@inlined
def pointers(samples: Any) -> Any:
    """The same, with pointers in place of the arrays."""
    return Samples(
        pointer_to(samples.offset),
        samples.offset_planes,
        pointer_to(samples.mask),
        samples.mask_planes,
    )


class ColumnsAt(NamedTuple):
    """Which positions columns are of.

    Attributes:
        positions: how many there is room for.
        origin: the first of them, counted through the images.
    """

    positions: int
    origin: int


class Block(NamedTuple):
    """The samples of a block of positions at one tap of one offset group.

    Each array has rows of BLOCK elements, a position each, one row after the other.

    Attributes:
        numbers: rows DY, DX, FRAC_Y, FRAC_X, MASK. The fractions are 0 where no corner is in
            bounds; the mask is 1 without a mask, and NaN where a coordinate is NaN.
        integers: rows BASE_Y, BASE_X: coordinates of the kernel's first tap, displacements left
            out; FLAGS.
        pixels: elements of the images at the low corners, for the first channel of the offset
            group.
    """

    numbers: Any
    integers: Any
    pixels: Any


DY, DX, FRAC_Y, FRAC_X, MASK, NUMBERS = (row * BLOCK for row in range(6))
BASE_Y, BASE_X, FLAGS, INTEGERS = (row * BLOCK for row in range(4))


@inlined
def new_block(like: Any) -> Any:
    """Room for a block whose coordinates have the dtype that ``like`` leads to."""
    integers = room_for(INTEGERS, int32(0))
    for k in range(INTEGERS):
        integers[k] = int32(0)
    return Block(room_for(NUMBERS, number(like, 0)), integers, room_for(BLOCK, int64(0)))


@inlined
def block_at(sizes: Any, block: Any, position: Any, last: Any) -> Any:
    """Begin a block at a position that is counted through the images.

    Returns:
        The image, and how many positions the block has: neighbours in it before ``last``.
    """
    n = position // sizes.out_pixels
    pixel = position - n * sizes.out_pixels
    count = min(BLOCK, last - position, sizes.out_pixels - pixel)
    oy = pixel // sizes.out_w
    ox = pixel - oy * sizes.out_w
    for k in range(count):
        block.integers[BASE_Y + k] = int32(oy * sizes.stride_h - sizes.pad_top)
        block.integers[BASE_X + k] = int32(ox * sizes.stride_w - sizes.pad_left)
        ox += 1
        if ox == sizes.out_w:
            ox = 0
            oy += 1
    return n, count


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


@inlined
def load_row(array: Any, first: Any, count: Any, numbers: Any, row: Any) -> None:
    """Copy what an array has for the positions of a block, zeros beyond them."""
    for k in range(0, BLOCK, VECTOR):
        here = min(VECTOR, count - k)
        store_vector(numbers, row + k, VECTOR, load_vector(array, first + k, here))


@inlined
def split(displacement: Any, base: Any, size: Any, least: Any, most: Any) -> Any:
    """Split a coordinate.

    Args:
        displacement: from the base to the coordinate.
        base: integer part of the coordinate without it.
        size: of the image.
        least, most: an int32 holds both, as the dtype of the displacement does.

    Returns:
        The low corner and the fraction, both 0 where no corner is in bounds, and whether one is.
    """
    floor = np.floor(displacement)
    limited = floor if floor > least else least
    step = int32(limited if limited < most else most)
    near = (step >= int32(-1 - base)) & (step < int32(size - base))
    low = int32(base + step) if near else int32(0)
    frac = displacement - floor if near else type(displacement)(0)
    return low, frac, near


@inlined
def locate(
    sizes: Any, block: Any, n: Any, position: Any, count: Any, tap: Any, og: Any, samples: Any
) -> None:
    """Work out the samples of a block at a tap of an offset group.

    Args:
        sizes: of the call.
        block: begun by :func:`block_at`; the rest is written.
        n: image.
        position: the first one, counted through the images.
        count: positions of the block.
        tap: row by row.
        og: offset group.
        samples: offset and mask.
    """
    numbers, integers, pixels = block
    one, nan = number(numbers, 1), number(numbers, np.nan)
    to_y, to_x, to_mask = planes_at(sizes, samples, n, position, tap, og)
    load_row(samples.offset, to_y, count, numbers, DY)
    load_row(samples.offset, to_x, count, numbers, DX)
    if samples.mask_planes.channel:
        load_row(samples.mask, to_mask, count, numbers, MASK)
    else:
        for k in range(BLOCK):
            numbers[MASK + k] = one
    i = tap // sizes.kernel_w
    step_y = int32(i * sizes.dilation_h)
    step_x = int32((tap - i * sizes.kernel_w) * sizes.dilation_w)
    in_h, in_w = int32(sizes.in_h), int32(sizes.in_w)
    most, least = np.nextafter(number(numbers, 2**31), one), number(numbers, -(2**31))
    channel = og * (sizes.channels // sizes.offset_groups)
    first = n * sizes.in_h * sizes.in_w * sizes.channels + channel
    for k in range(BLOCK):
        dy, dx = numbers[DY + k], numbers[DX + k]
        y, fy, near_y = split(dy, int32(integers[BASE_Y + k] + step_y), in_h, least, most)
        x, fx, near_x = split(dx, int32(integers[BASE_X + k] + step_x), in_w, least, most)
        rows = (int32(TOP) if y >= 0 else int32(0)) | (
            int32(BOTTOM) if y < int32(in_h - 1) else int32(0)
        )
        cols = (int32(LEFT) if x >= 0 else int32(0)) | (
            int32(RIGHT) if x < int32(in_w - 1) else int32(0)
        )
        edge = ((y == int32(-1)) & (fy == 0)) | ((x == int32(-1)) & (fx == 0))
        flags = (rows & cols) | (int32(AT_MINUS_ONE) if edge else int32(0))
        lost = (dy != dy) | (dx != dx)
        outside = int32(NAN_COORD) if lost else int32(0)
        integers[FLAGS + k] = flags if near_y & near_x else outside
        numbers[FRAC_Y + k] = fy
        numbers[FRAC_X + k] = fx
        numbers[MASK + k] = nan if lost else numbers[MASK + k]
        pixels[k] = first + (int64(y) * sizes.in_w + int64(x)) * sizes.channels
