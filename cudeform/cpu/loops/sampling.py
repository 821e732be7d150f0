"""Functions that the loops over samples share: corners, and indices in the columns.

A *sample* is one (position, tap, offset group). A loop processes blocks of adjacent positions, and
within a block all taps, so that the columns of the block stay in a fast cache. It first locates all
samples of a block at one tap, then processes each of them, VECTOR channels at a time. A corner out
of bounds counts as 0 and is neither read nor written.

Arguments of the loops:

    sizes     sizes of the call
    first     the first position, numbered through the images
    last      the position after the last one
    image     flat, channels last: (images, H, W, C) in two dimensions
    samples   offset and mask, see Samples
    columns   flat, (groups, positions, taps, C/groups)
    layout    the positions of the columns, see ColumnLayout
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
    """Distance from the low corner to another corner, in elements."""
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
    """Add ``count`` channels of a corner times its weight, if it is in bounds."""
    plane_index = pixel + corner_step(corner, sizes)
    pixels = load_vector_if(corners & (1 << corner), image, plane_index, count)
    return add_scaled(value, item(weights, corner), pixels)


@inlined
def weighted_corners(
    sizes: Any, image: Any, pixel: Any, corners: Any, weights: Any, count: Any, value: Any
) -> Any:
    """Add ``count`` channels of the corners in bounds, times their weights, to a value."""
    arguments = sizes, image, pixel, corners, weights, count
    return over_corners(sizes.size, add_weighted_corner, value, arguments)


@inlined
def column_index(sizes: Any, layout: Any, channel: Any, position: Any, tap: Any) -> Any:
    """Index of a channel, position and tap in the columns."""
    group = channel // sizes.group_channels
    row = (group * layout.positions + position - layout.origin) * sizes.taps + tap
    return (row - group) * sizes.group_channels + channel


@inlined
def channel_step(sizes: Any, layout: Any, channel: Any, c: Any) -> Any:
    """Distance in the columns from a channel to ``channel + c``, which may be in another group."""
    if c == 0:
        return 0
    return column_index(sizes, layout, channel + c, 0, 0) - column_index(
        sizes, layout, channel, 0, 0
    )


@inlined
def position_step(sizes: Any) -> Any:
    """Distance in the columns from a position to the next one."""
    return sizes.taps * sizes.group_channels


@inlined
def contributing_corners(sizes: Any, flags: Any) -> Any:
    """Corners that contribute to the value of a sample: none if a coordinate is exactly -1."""
    return 0 if flags & AT_MINUS_ONE else flags & all_corners(sizes.size)
