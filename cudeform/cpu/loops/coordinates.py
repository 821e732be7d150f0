"""Where the taps of a block of positions sample: from displacements to corners and fractions.

The fraction comes from the displacement alone and the base of a tap is an integer, so a coordinate
keeps the full precision of its displacement however large the image is. Names and rules are those
of ``kernels/sampling/sample.cuh``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cudeform.cpu.loops.arguments import planes_at
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    number,
    room_for,
    store_vector,
)

int32, int64 = np.int32, np.int64

# Positions that a loop works out at once.
BLOCK = 64

# Flags of a sample: the corners in bounds, in the order top left, top right, bottom left, bottom
# right, and what is special about its coordinate.
TOP, BOTTOM, LEFT, RIGHT = 1 | 2, 4 | 8, 1 | 4, 2 | 8
ALL_CORNERS = TOP | BOTTOM
AT_MINUS_ONE = 16  # a coordinate is exactly -1: the sample is 0 although corners are in bounds
NAN_COORD = 32


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
