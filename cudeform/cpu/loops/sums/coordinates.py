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
from cudeform.cpu.loops.unrolled import all_corners, next_index, over_axes, unravel
from cudeform.cpu.loops.vectors import local_array, scalar_like

int32, int64 = np.int32, np.int64

# Rows of BLOCK elements behind those of ``coordinates.Block``: one row for x, then one for y.
SHIFT, FACTOR, ALL_NUMBERS = (NUMBERS + row * BLOCK for row in (0, 2, 4))
SIZE, TAP_BASE, ALL_INTEGERS = (INTEGERS + row * BLOCK for row in (0, 2, 4))

# Rows of ``Block.pixels`` behind the first one: first element of the level, elements from one row
# of the level to the next, and one element per position: its row and column.
LEVEL, ROW_STEP, ROW, COL, ALL_PIXELS = (row * BLOCK for row in range(1, 6))


class LevelSizes(NamedTuple):
    """The level of a sample, in the form that functions of sampling take.

    Attributes:
        size: (width, height).
        steps: elements from one pixel to the next along (x, y).
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
            block.pixels[ROW_STEP + sample] = table.elements[sizes.taps + entry]
    return taps, positions


@inlined
def begin_positions(sizes: Any, block: Any, position: Any, count: Any) -> None:
    """Write the rows and columns of ``count`` positions of an image into a block."""
    index = unravel(position, sizes.out)
    for k in range(count):
        block.pixels[ROW + k], block.pixels[COL + k] = index
        index = next_index(index, sizes.out)


@inlined
def index_in(positions: Any, block: Any, k: Any, group: Any, tap: Any) -> Any:
    """Index, in an array of positions, of a tap and a group at position ``k`` of a block."""
    return element_index(positions, block.pixels[ROW + k], block.pixels[COL + k], group, tap)


@inlined
def load_samples(
    sizes: Any, block: Any, count: Any, first_tap: Any, taps: Any, group: Any, samples: Any
) -> None:
    """Copy offsets and masks into a block, offsets as displacements; write the bases."""
    numbers, integers = block.numbers, block.integers
    offset, mask = samples
    stride_x, stride_y = sizes.stride
    for k in range(count):
        offset_index = index_in(offset, block, k, group, first_tap)
        mask_index = index_in(mask, block, k, group, first_tap)
        base_x = int32(block.pixels[COL + k] * stride_x)
        base_y = int32(block.pixels[ROW + k] * stride_y)
        for tap in range(taps):
            x = k * taps + tap
            y = x + BLOCK
            numbers[DISPLACEMENT + x] = offset.array[offset_index]
            numbers[DISPLACEMENT + y] = offset.array[offset_index + offset.pair]
            numbers[MASK + x] = mask.array[mask_index]
            integers[BASE + x] = int32(integers[TAP_BASE + x] + base_x)
            integers[BASE + y] = int32(integers[TAP_BASE + y] + base_y)
            offset_index += offset.tap
            mask_index += mask.tap
    for k in range(2 * BLOCK):
        displacement = numbers[SHIFT + k] + numbers[FACTOR + k] * numbers[DISPLACEMENT + k]
        numbers[DISPLACEMENT + k] = displacement


@inlined
def level_of(sizes: Any, block: Any, sample: Any) -> Any:
    """The level of a sample of a block."""
    size = block.integers[SIZE + sample], block.integers[SIZE + BLOCK + sample]
    return LevelSizes(size, (sizes.pixel_step, block.pixels[ROW_STEP + sample]))


@inlined
def locate_samples(
    sizes: Any, block: Any, count: Any, first_tap: Any, taps: Any, group: Any, samples: Any
) -> None:
    """Locate the samples of a group at ``count`` positions of a block.

    Args:
        sizes: sizes of the call.
        block: a block after :func:`begin_taps` and :func:`begin_positions`.
        count: number of positions.
        first_tap, taps: the first tap and the number of taps.
        group: the group.
        samples: offset and mask.
    """
    load_samples(sizes, block, count, first_tap, taps, group, samples)
    numbers, integers, pixels = block
    one, nan = scalar_like(numbers, 1), scalar_like(numbers, np.nan)
    most, least = np.nextafter(scalar_like(numbers, 2**31), one), scalar_like(numbers, -(2**31))
    steps = int32(0), int32(0)  # the bases include the tap
    for k in range(BLOCK):
        level = level_of(sizes, block, k)
        first = pixels[LEVEL + k] + group * sizes.group_step
        start = int32(all_corners(level.size)), True, False, False, first
        corners, reaches_image, at_minus_one, nan_coord, pixel = over_axes(
            level.size, locate_axis, start, (block, k, level, steps, least, most)
        )
        flags = corners | (int32(AT_MINUS_ONE) if at_minus_one else int32(0))
        no_corner = int32(NAN_COORD) if nan_coord else int32(0)
        integers[FLAGS + k] = flags if reaches_image else no_corner
        numbers[MASK + k] = nan if nan_coord else numbers[MASK + k]
        pixels[k] = pixel
