"""What the loops over samples have in common: corners, their weights, cells of the columns.

A *sample* is one (position, tap, offset group). Positions go in blocks of neighbours, with taps
inside, so that the columns of a block stay in a near cache; the coordinates of a block are worked
out at once, then each of its samples moves VECTOR channels at a time. A corner out of bounds is
neither read nor written, and what is not read counts as 0.

Arguments of the loops:

    sizes     of the call
    first     the first position, counted through the images
    last      the position after the last one
    image     flat, (images, H, W, C)
    samples   offset and mask, see Samples
    columns   flat, (groups, positions, taps, C/groups)
    at        which positions the columns are of, see ColumnsAt
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import ALL_CORNERS, AT_MINUS_ONE
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.vectors import add_scaled, load_vector_if


@inlined
def corner_weights(fy: Any, fx: Any) -> Any:
    """Bilinear weights of the corners."""
    one = type(fy)(1)
    return (one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx


@inlined
def weighted_corners(
    sizes: Any, image: Any, pixel: Any, corners: Any, weights: Any, count: Any, value: Any
) -> Any:
    """Add ``count`` channels of the corners in bounds to a value, multiplied by their weights."""
    col, row = sizes.channels, sizes.in_w * sizes.channels
    value = add_scaled(value, weights[0], load_vector_if(corners & 1, image, pixel, count))
    value = add_scaled(value, weights[1], load_vector_if(corners & 2, image, pixel + col, count))
    value = add_scaled(value, weights[2], load_vector_if(corners & 4, image, pixel + row, count))
    pixel += row + col
    return add_scaled(value, weights[3], load_vector_if(corners & 8, image, pixel, count))


@inlined
def first_cell(sizes: Any, at: Any, channel: Any, position: Any, tap: Any) -> Any:
    """Element of the columns at a channel, a position and a tap."""
    taps = sizes.kernel_h * sizes.kernel_w
    group = channel // sizes.group_channels
    row = (group * at.positions + position - at.origin) * taps + tap
    return (row - group) * sizes.group_channels + channel


@inlined
def run_step(sizes: Any, at: Any, channel: Any, c: Any) -> Any:
    """From there to the channel that lies ``c`` further, which may be in another group."""
    if c == 0:
        return 0
    return first_cell(sizes, at, channel + c, 0, 0) - first_cell(sizes, at, channel, 0, 0)


@inlined
def cell_step(sizes: Any) -> Any:
    """From there to the next position."""
    return sizes.kernel_h * sizes.kernel_w * sizes.group_channels


@inlined
def counting_corners(flags: Any) -> Any:
    """Corners that count for the value of a sample: none where a coordinate is exactly -1."""
    return 0 if flags & AT_MINUS_ONE else flags & ALL_CORNERS
