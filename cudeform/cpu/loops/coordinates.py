"""Coordinates of the samples of a block of positions: from displacements to corners and fractions.

A coordinate is an integer base plus a displacement. The fraction is computed from the displacement
alone, so it is equally precise for an image of any size. Names and rules are those of
``kernels/sampling/sample.cuh``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cudeform.cpu.loops.arguments import plane_indices
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.unrolled import (
    all_corners,
    corner_bit,
    item,
    next_index,
    over_axes,
    per_axis,
    unravel,
)
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    local_array,
    scalar_like,
    store_vector,
)

int32, int64 = np.int32, np.int64

# Number of positions whose samples are located together.
BLOCK = 64

# Flags of a sample: a bit for each corner in bounds, at most eight, and two about its coordinates.
AT_MINUS_ONE = 1 << 8  # a coordinate is exactly -1: the sample is 0 for any values at its corners
NAN_COORD = 1 << 9  # a coordinate is NaN

# HIGH_CORNERS[bit]: the set of corners whose number contains the bit 1, 2 or 4.
HIGH_CORNERS = (0, 0b10101010, 0b11001100, 0, 0b11110000)


class Block(NamedTuple):
    """The samples of a block of positions at one tap of one offset group.

    Each array consists of rows of BLOCK elements, one element per position. There are rows for
    three axes; with fewer axes, some rows are unused.

    Attributes:
        numbers: row MASK, and one row per axis from DISPLACEMENT and from FRAC on. A fraction is 0
            if no corner is in bounds. The mask is 1 if the call has none, and NaN if a coordinate
            is NaN.
        integers: row FLAGS, and one row per axis from BASE on: the coordinates of the kernel's
            first tap without displacement.
        pixels: indices of the low corners in the images, at the first channel of the offset group.
    """

    numbers: Any
    integers: Any
    pixels: Any


MASK, DISPLACEMENT, FRAC, NUMBERS = (row * BLOCK for row in (0, 1, 4, 7))
FLAGS, BASE, INTEGERS = (row * BLOCK for row in (0, 1, 4))


@inlined
def new_block(like: Any) -> Any:
    """Memory for a block; its coordinates have the element type of the pointer ``like``."""
    integers = local_array(INTEGERS, int32(0))
    for k in range(INTEGERS):
        integers[k] = int32(0)
    return Block(local_array(NUMBERS, scalar_like(like, 0)), integers, local_array(BLOCK, int64(0)))


@inlined
def store_base(axis: Any, sizes: Any, integers: Any, k: Any, index: Any) -> None:
    """Write the base of a position along an axis."""
    base = item(index, axis) * item(sizes.stride, axis) - item(sizes.pad_begin, axis)
    integers[BASE + axis * BLOCK + k] = int32(base)


@inlined
def begin_block(sizes: Any, block: Any, position: Any, last: Any) -> Any:
    """Begin a block at a position, numbered through the images: write its bases.

    Returns:
        The image, and the number of positions of the block. They are contiguous in the image, and
        lie before ``last``.
    """
    n = position // sizes.out_pixels
    pixel = position - n * sizes.out_pixels
    count = min(BLOCK, last - position, sizes.out_pixels - pixel)
    index = unravel(pixel, sizes.out)
    for k in range(count):
        per_axis(sizes.out, store_base, (sizes, block.integers, k, index))
        index = next_index(index, sizes.out)
    return n, count


@inlined
def load_row(array: Any, first: Any, count: Any, numbers: Any, row: Any) -> None:
    """Copy ``count`` elements of an array into a row of a block; the rest of the row is 0."""
    for k in range(0, BLOCK, VECTOR):
        width = min(VECTOR, count - k)
        store_vector(numbers, row + k, VECTOR, load_vector(array, first + k, width))


@inlined
def load_displacements(axis: Any, offset: Any, first: Any, count: Any, numbers: Any) -> None:
    """Copy the displacements of a block along an axis."""
    load_row(offset, item(first, axis), count, numbers, DISPLACEMENT + axis * BLOCK)


@inlined
def split_coordinate(displacement: Any, base: Any, size: Any, least: Any, most: Any) -> Any:
    """Split a coordinate.

    Args:
        displacement: distance from the base to the coordinate.
        base: integer coordinate of the tap without displacement.
        size: size of the image along the axis.
        least, most: limits of int32, in the dtype of the displacement.

    Returns:
        The low corner, the fraction, and whether a corner is in bounds; 0, 0 and False if none is.
    """
    floor = np.floor(displacement)
    limited = floor if floor > least else least
    step = int32(limited if limited < most else most)
    reaches_image = (step >= int32(-1 - base)) & (step < int32(size - base))
    low = int32(base + step) if reaches_image else int32(0)
    frac = displacement - floor if reaches_image else type(displacement)(0)
    return low, frac, reaches_image


@inlined
def locate_axis(
    axis: Any, sample: Any, block: Any, k: Any, sizes: Any, steps: Any, least: Any, most: Any
) -> Any:
    """Update the state of a sample for one more axis.

    The state ``sample`` is: the set of corners in bounds, whether a corner can be in bounds,
    whether a coordinate is -1, whether one is NaN, and the index of the low corner in the images.
    """
    corners, reaches_image, at_minus_one, nan_coord, pixel = sample
    row, size = axis * BLOCK + k, int32(item(sizes.size, axis))
    displacement = block.numbers[DISPLACEMENT + row]
    base = int32(block.integers[BASE + row] + item(steps, axis))
    low, frac, reaches_axis = split_coordinate(displacement, base, size, least, most)
    block.numbers[FRAC + row] = frac
    high = int32(item(HIGH_CORNERS, corner_bit(sizes.size, axis)))
    in_bounds = (int32(~high) if low >= 0 else int32(0)) | (
        high if low < int32(size - 1) else int32(0)
    )
    return (
        int32(corners & in_bounds),
        reaches_image & reaches_axis,
        at_minus_one | ((low == int32(-1)) & (frac == 0)),
        nan_coord | (displacement != displacement),
        pixel + int64(low) * item(sizes.steps, axis),
    )


@inlined
def tap_step(axis: Any, tap: Any, dilation: Any) -> Any:
    """Distance from the first tap to another along an axis, in pixels."""
    return int32(item(tap, axis) * item(dilation, axis))


@inlined
def locate(
    sizes: Any, block: Any, n: Any, position: Any, count: Any, tap: Any, og: Any, samples: Any
) -> None:
    """Locate the samples of a block at one tap of one offset group.

    Args:
        sizes: sizes of the call.
        block: a block after :func:`begin_block`; its other rows are written.
        n: image.
        position: first position, numbered through the images.
        count: number of positions of the block.
        tap: tap, numbered row by row.
        og: offset group.
        samples: offset and mask.
    """
    numbers, integers, pixels = block
    one, nan = scalar_like(numbers, 1), scalar_like(numbers, np.nan)
    offset_indices, mask_index = plane_indices(sizes, samples, n, position, tap, og)
    per_axis(sizes.size, load_displacements, (samples.offset, offset_indices, count, numbers))
    if samples.mask_planes.channel:
        load_row(samples.mask, mask_index, count, numbers, MASK)
    else:
        for k in range(BLOCK):
            numbers[MASK + k] = one
    steps = per_axis(sizes.size, tap_step, (unravel(tap, sizes.kernel), sizes.dilation))
    most, least = np.nextafter(scalar_like(numbers, 2**31), one), scalar_like(numbers, -(2**31))
    first = n * item(sizes.size, 0) * item(sizes.steps, 0)
    first += og * (sizes.channels // sizes.offset_groups)
    start = int32(all_corners(sizes.size)), True, False, False, first
    for k in range(BLOCK):
        corners, reaches_image, at_minus_one, nan_coord, pixel = over_axes(
            sizes.size, locate_axis, start, (block, k, sizes, steps, least, most)
        )
        flags = corners | (int32(AT_MINUS_ONE) if at_minus_one else int32(0))
        no_corner = int32(NAN_COORD) if nan_coord else int32(0)
        integers[FLAGS + k] = flags if reaches_image else no_corner
        numbers[MASK + k] = nan if nan_coord else numbers[MASK + k]
        pixels[k] = pixel


@inlined
def frac_along(axis: Any, block: Any, k: Any) -> Any:
    """The fraction along an axis of sample ``k`` of a block."""
    return block.numbers[FRAC + axis * BLOCK + k]


@inlined
def fractions(sizes: Any, block: Any, k: Any) -> Any:
    """The fractions of sample ``k`` of a block, one per axis."""
    return per_axis(sizes.size, frac_along, (block, k))
