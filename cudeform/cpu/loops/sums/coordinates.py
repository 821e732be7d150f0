"""Coordinates of a block of samples: several positions of one group, and for each of them all taps.

Sample ``position * taps + tap`` of a block belongs to a position and a tap, each numbered from the
first of the block. The rules for a coordinate are those of ``coordinates.py``, applied along (x, y)
to a level that may differ from tap to tap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cudeform.cpu.loops.coordinates import (
    AT_MINUS_ONE,
    BASE,
    BLOCK,
    DISPLACEMENT,
    FLAGS,
    INTEGERS,
    MASK,
    NAN_COORD,
    NUMBERS,
    Block,
    locate_axis,
)
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.sums.arguments import element_index
from cudeform.cpu.loops.sums.pairs import load_pairs
from cudeform.cpu.loops.unrolled import all_corners, next_index, over_axes, unravel
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    local_array,
    scalar_like,
    store_vector,
)

int32, int64 = np.int32, np.int64

# Rows of BLOCK elements after those of ``coordinates.Block``: one row for x, then one for y; of the
# weights, one for each corner. The weights and the set of corners that they are for are those that
# a loop needs: of the value of a sample, or of its gradient.
SHIFT, FACTOR, WEIGHTS, OFFSET_X = (NUMBERS + row * BLOCK for row in (0, 2, 4, 8))
SIZE, TAP_BASE, ROW_STEP, CORNERS, ALL_INTEGERS = (
    INTEGERS + row * BLOCK for row in (0, 2, 4, 5, 6)
)

# Offsets are written a vector at a time, so their rows are longer than a block by a vector.
OFFSET_Y, ALL_NUMBERS = (OFFSET_X + row * (BLOCK + VECTOR) for row in (1, 2))

# Rows of ``Block.pixels`` after the first one: the first element of the level, then for each
# position its row and its column.
LEVEL, ROW, COL, ALL_PIXELS = (row * BLOCK for row in range(1, 5))


class LevelSizes(NamedTuple):
    """The level of a sample, in the form that the functions of ``sampling.py`` take.

    Attributes:
        size: (width, height).
        steps: distance of adjacent pixels in elements, along (x, y).
    """

    size: Any
    steps: Any


@inlined
def new_sum_block(like: Any) -> Any:
    """Memory for a block; its coordinates have the element type of the pointer ``like``."""
    zero = scalar_like(like, 0)
    numbers, integers = local_array(ALL_NUMBERS, zero), local_array(ALL_INTEGERS, int32(0))
    pixels = local_array(ALL_PIXELS, int64(0))
    for k in range(ALL_NUMBERS):
        numbers[k] = zero
    for k in range(ALL_INTEGERS):
        integers[k] = int32(0)
    for k in range(ALL_PIXELS):
        pixels[k] = int64(0)
    return Block(numbers, integers, pixels)


@inlined
def begin_taps(sizes: Any, block: Any, table: Any, first_tap: Any) -> Any:
    """Write the properties of taps from ``first_tap`` on into a block.

    Returns:
        The number of taps and the number of positions of a block.
    """
    taps = min(BLOCK, sizes.taps - first_tap)
    positions = BLOCK // taps
    for k in range(positions):
        for tap in range(taps):
            sample, entry = k * taps + tap, first_tap + tap
            for axis in range(2):
                at, x_or_y = axis * BLOCK + sample, axis * sizes.taps + entry
                block.integers[SIZE + at] = table.integers[x_or_y]
                block.integers[TAP_BASE + at] = table.integers[2 * sizes.taps + x_or_y]
                block.numbers[SHIFT + at] = table.numbers[x_or_y]
                block.numbers[FACTOR + at] = table.numbers[2 * sizes.taps + x_or_y]
            block.pixels[LEVEL + sample] = table.elements[entry]
            block.integers[ROW_STEP + sample] = table.integers[4 * sizes.taps + entry]
    return taps, positions


@inlined
def begin_positions(sizes: Any, block: Any, position: Any, count: Any, taps: Any) -> None:
    """Write the rows and columns of ``count`` positions of an image and the bases of their samples.

    The bases include the taps that :func:`begin_taps` has written.
    """
    stride_x, stride_y = sizes.stride
    index = unravel(position, sizes.out)
    for k in range(count):
        row, col = index
        block.pixels[ROW + k], block.pixels[COL + k] = index
        base_x, base_y = int32(col * stride_x), int32(row * stride_y)
        for x in range(k * taps, (k + 1) * taps):
            y = x + BLOCK
            block.integers[BASE + x] = int32(block.integers[TAP_BASE + x] + base_x)
            block.integers[BASE + y] = int32(block.integers[TAP_BASE + y] + base_y)
        index = next_index(index, sizes.out)


@inlined
def index_in(positions: Any, block: Any, k: Any, group: Any, tap: Any) -> Any:
    """Index, in an array of positions, of a tap and a group at position ``k`` of a block."""
    return element_index(positions, block.pixels[ROW + k], block.pixels[COL + k], group, tap)


@inlined
def load_samples(block: Any, part: Any, samples: Any) -> None:
    """Copy offsets and masks into a block, offsets as displacements."""
    numbers, taps = block.numbers, part.taps
    offset, mask = samples
    adjacent = offset.pair == 1 and offset.tap == 2 and mask.tap == 1
    for k in range(part.positions):
        offset_index = index_in(offset, block, k, part.group, part.first_tap)
        mask_index = index_in(mask, block, k, part.group, part.first_tap)
        first = k * taps
        if adjacent:
            for tap in range(0, taps, VECTOR):
                # What a vector writes after the last tap, the next position or row overwrites.
                width = min(VECTOR, taps - tap)
                x, y = load_pairs(offset.array, offset_index + 2 * tap, width)
                masks = load_vector(mask.array, mask_index + tap, width)
                store_vector(numbers, OFFSET_X + first + tap, VECTOR, x)
                store_vector(numbers, OFFSET_Y + first + tap, VECTOR, y)
                store_vector(numbers, MASK + first + tap, VECTOR, masks)
        else:
            for sample in range(first, first + taps):
                numbers[OFFSET_X + sample] = offset.array[offset_index]
                numbers[OFFSET_Y + sample] = offset.array[offset_index + offset.pair]
                numbers[MASK + sample] = mask.array[mask_index]
                offset_index += offset.tap
                mask_index += mask.tap
    for x in range(BLOCK):
        y = x + BLOCK
        along_x = numbers[SHIFT + x] + numbers[FACTOR + x] * numbers[OFFSET_X + x]
        along_y = numbers[SHIFT + y] + numbers[FACTOR + y] * numbers[OFFSET_Y + x]
        numbers[DISPLACEMENT + x], numbers[DISPLACEMENT + y] = along_x, along_y


@inlined
def level_of(sizes: Any, block: Any, sample: Any) -> Any:
    """The level of a sample of a block."""
    size = block.integers[SIZE + sample], block.integers[SIZE + BLOCK + sample]
    # Steps have 32 bits, because AVX2 has no product of 64-bit integers.
    return LevelSizes(size, (int32(sizes.pixel_step), block.integers[ROW_STEP + sample]))


@inlined
def locate_samples(sizes: Any, block: Any, part: Any, samples: Any) -> None:
    """Locate the samples of a part of a block.

    Args:
        sizes: sizes of the call.
        block: a block after :func:`begin_taps` and :func:`begin_positions`.
        part: see ``blocks.Part``.
        samples: offset and mask.
    """
    load_samples(block, part, samples)
    numbers, integers, pixels = block
    one, nan = scalar_like(numbers, 1), scalar_like(numbers, np.nan)
    most, least = np.nextafter(scalar_like(numbers, 2**31), one), scalar_like(numbers, -(2**31))
    steps = int32(0), int32(0)  # the bases include the tap
    for k in range(BLOCK):
        level = level_of(sizes, block, k)
        first = pixels[LEVEL + k] + part.group * sizes.group_step
        start = int32(all_corners(level.size)), True, False, False, first
        corners, reaches_image, at_minus_one, nan_coord, pixel = over_axes(
            level.size, locate_axis, start, (block, k, level, steps, least, most)
        )
        flags = corners | (int32(AT_MINUS_ONE) if at_minus_one else int32(0))
        no_corner = int32(NAN_COORD) if nan_coord else int32(0)
        integers[FLAGS + k] = flags if reaches_image else no_corner
        numbers[MASK + k] = nan if nan_coord else numbers[MASK + k]
        pixels[k] = pixel
