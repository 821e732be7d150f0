"""What the loops over samples have in common: corners, their weights, cells of the columns.

A *sample* is one (position, tap, offset group). Positions go in blocks of neighbours, with taps
inside, so that the columns of a block stay in a near cache; the coordinates of a block are worked
out at once, then each of its samples moves VECTOR channels at a time. A corner out of bounds is
neither read nor written, and what is not read counts as 0.

Arguments of the loops:

    sizes     of the call
    first     the first position, counted through the images
    last      the position after the last one
    image     flat, channels last: (images, H, W, C) in two dimensions
    samples   offset and mask, see Samples
    columns   flat, (groups, positions, taps, C/groups)
    at        which positions the columns are of, see ColumnsAt
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import AT_MINUS_ONE
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.unrolled import all_corners, corner_bit, item, over_axes, over_corners
from cudeform.cpu.loops.vectors import add_scaled, load_vector_if


@inlined
def axis_step(axis: Any, step: Any, corner: Any, steps: Any) -> Any:
    """Add the step along an axis if a corner is the high one."""
    return step + item(steps, axis) if corner & corner_bit(steps, axis) else step


@inlined
def corner_step(corner: Any, sizes: Any) -> Any:
    """Elements from the low corner to another."""
    return over_axes(sizes.steps, axis_step, 0, (corner, sizes.steps))


@inlined
def add_weighted_corner(
    corner: Any,
    value: Any,
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    weights: Any,
    count: Any,
) -> Any:
    """Add some channels of a corner if it is in bounds."""
    plane_index = pixel + corner_step(corner, sizes)
    pixels = load_vector_if(corners & (1 << corner), image, plane_index, count)
    return add_scaled(value, item(weights, corner), pixels)


@inlined
def weighted_corners(
    sizes: Any, image: Any, pixel: Any, corners: Any, weights: Any, count: Any, value: Any
) -> Any:
    """Add ``count`` channels of the corners in bounds to a value, multiplied by their weights."""
    arguments = sizes, image, pixel, corners, weights, count
    return over_corners(sizes.size, add_weighted_corner, value, arguments)


@inlined
def column_index(sizes: Any, layout: Any, channel: Any, position: Any, tap: Any) -> Any:
    """Element of the columns at a channel, a position and a tap."""
    group = channel // sizes.group_channels
    row = (group * layout.positions + position - layout.origin) * sizes.taps + tap
    return (row - group) * sizes.group_channels + channel


@inlined
def channel_step(sizes: Any, layout: Any, channel: Any, c: Any) -> Any:
    """From there to the channel that lies ``c`` further, which may be in another group."""
    if c == 0:
        return 0
    return column_index(sizes, layout, channel + c, 0, 0) - column_index(
        sizes, layout, channel, 0, 0
    )


@inlined
def position_step(sizes: Any) -> Any:
    """From there to the next position."""
    return sizes.taps * sizes.group_channels


@inlined
def contributing_corners(sizes: Any, flags: Any) -> Any:
    """Corners that count for the value of a sample: none where a coordinate is exactly -1."""
    return 0 if flags & AT_MINUS_ONE else flags & all_corners(sizes.size)
