"""The loops over samples that move channels: columns gathered from images, gradients scattered.

A *sample* is one (position, tap, offset group). Positions go in blocks of neighbours, with taps
inside, so that the columns of a block stay in the nearest cache; the coordinates of a block are
worked out at once, then each of its samples moves VECTOR channels at a time. A corner out of bounds
is neither read nor written, and what is not read counts as 0.

What the loops have in common:

    sizes     of the call
    first     the first position, counted through the images
    last      the position after the last one
    image     flat, (images, H, W, C)
    samples   offset and mask, see Samples
    columns   flat, (groups, positions, taps, C/groups), see ColumnsAt
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import (
    ALL_CORNERS,
    AT_MINUS_ONE,
    FLAGS,
    FRAC_X,
    FRAC_Y,
    MASK,
    block_at,
    locate,
    new_block,
    pointers,
)
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_scaled,
    filled,
    load_vector,
    load_vector_if,
    number,
    pointer_to,
    scaled,
    store_vector,
)


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
def gather_run(
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    weights: Any,
    mask: Any,
    columns: Any,
    cell: Any,
) -> None:
    """A run of channels of a sample, from the image into the columns.

    The mask multiplies the sample and not its corners: infinity times a weight of 0 is NaN.
    """
    zero = filled(number(image, 0))
    done, whole = 0, sizes.run - sizes.run % VECTOR
    if corners == ALL_CORNERS:
        for c in range(0, whole, VECTOR):
            value = weighted_corners(sizes, image, pixel + c, ALL_CORNERS, weights, VECTOR, zero)
            store_vector(columns, cell + c, VECTOR, scaled(mask, value))
        done = whole
    for c in range(done, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        value = weighted_corners(sizes, image, pixel + c, corners, weights, count, zero)
        store_vector(columns, cell + c, count, scaled(mask, value))


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


@loop
def gather_columns(
    sizes: Any, first: Any, last: Any, image: Any, samples: Any, columns: Any, at: Any
) -> None:
    """Sample the images at every tap of some positions; ``columns`` are written."""
    image, columns, samples = pointer_to(image), pointer_to(columns), pointers(samples)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(0, offset_channels, sizes.run):
                    cell = first_cell(sizes, at, og * offset_channels + c, position, tap)
                    for k in range(count):
                        gather_run(
                            sizes,
                            image,
                            block.pixels[k] + c,
                            counting_corners(block.integers[FLAGS + k]),
                            corner_weights(block.numbers[FRAC_Y + k], block.numbers[FRAC_X + k]),
                            block.numbers[MASK + k],
                            columns,
                            cell + k * cell_step(sizes),
                        )
        position += count


@inlined
def add_to_corner(image: Any, pixel: Any, weight: Any, value: Any, count: Any) -> None:
    """Add to a corner of a sample."""
    store_vector(image, pixel, count, add_scaled(load_vector(image, pixel, count), weight, value))


@inlined
def add_to_corners(
    sizes: Any, image: Any, pixel: Any, gains: Any, weights: Any, value: Any, count: Any
) -> None:
    """Add to the corners that gain."""
    col, row = sizes.channels, sizes.in_w * sizes.channels
    if gains & 1:
        add_to_corner(image, pixel, weights[0], value, count)
    if gains & 2:
        add_to_corner(image, pixel + col, weights[1], value, count)
    if gains & 4:
        add_to_corner(image, pixel + row, weights[2], value, count)
    if gains & 8:
        add_to_corner(image, pixel + row + col, weights[3], value, count)


@inlined
def scatter_run(
    sizes: Any, image: Any, pixel: Any, gains: Any, weights: Any, columns: Any, cell: Any
) -> None:
    """Add a run of channels of a sample to the corners that gain."""
    whole = sizes.run - sizes.run % VECTOR
    first = 0
    if gains == ALL_CORNERS:
        for c in range(0, whole, VECTOR):
            value = load_vector(columns, cell + c, VECTOR)
            add_to_corners(sizes, image, pixel + c, ALL_CORNERS, weights, value, VECTOR)
        first = whole
    for c in range(first, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        value = load_vector(columns, cell + c, count)
        add_to_corners(sizes, image, pixel + c, gains, weights, value, count)


@inlined
def scatter_weight(bilinear: Any, mask: Any) -> Any:
    """What a corner gains, as a factor. A corner of weight 0 gains nothing, whatever the mask."""
    zero = type(bilinear)(0)
    return zero if bilinear == zero else bilinear * mask


@inlined
def scatter_weights(fy: Any, fx: Any, mask: Any) -> Any:
    """Those of the corners."""
    a, b, c, d = corner_weights(fy, fx)
    return (
        scatter_weight(a, mask),
        scatter_weight(b, mask),
        scatter_weight(c, mask),
        scatter_weight(d, mask),
    )


@inlined
def corners_that_gain(corners: Any, weights: Any) -> Any:
    """Those whose weight is not 0."""
    gains = corners & 1 if weights[0] != 0 else 0
    gains |= corners & 2 if weights[1] != 0 else 0
    gains |= corners & 4 if weights[2] != 0 else 0
    gains |= corners & 8 if weights[3] != 0 else 0
    return gains


@loop
def scatter(
    sizes: Any,
    first: Any,
    last: Any,
    first_channel: Any,
    last_channel: Any,
    samples: Any,
    grad_columns: Any,
    at: Any,
    grad_image: Any,
) -> None:
    """Add the gradient of the columns to the gradient of the images, for some runs of channels.

    Samples are added in the order of positions, taps and offset groups; threads that take other
    runs of channels write other elements.
    """
    grad_image, grad_columns = pointer_to(grad_image), pointer_to(grad_columns)
    samples = pointers(samples)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(grad_image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(first_channel // offset_channels, sizes.offset_groups):
                channel = og * offset_channels
                begin = max(0, first_channel - channel)
                end = min(offset_channels, last_channel - channel)
                if begin >= end:
                    break
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(begin, end, sizes.run):
                    cell = first_cell(sizes, at, channel + c, position, tap)
                    for k in range(count):
                        weights = scatter_weights(
                            block.numbers[FRAC_Y + k],
                            block.numbers[FRAC_X + k],
                            block.numbers[MASK + k],
                        )
                        corners = counting_corners(block.integers[FLAGS + k])
                        scatter_run(
                            sizes,
                            grad_image,
                            block.pixels[k] + c,
                            corners_that_gain(corners, weights),
                            weights,
                            grad_columns,
                            cell + k * cell_step(sizes),
                        )
        position += count
