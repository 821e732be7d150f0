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

import numpy as np

from cudeform.cpu.loops.coordinates import (
    ALL_CORNERS,
    AT_MINUS_ONE,
    block_at,
    locate,
    new_block,
)
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_scaled,
    filled,
    load_vector,
    load_vector_if,
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
    zero = filled(image.dtype.type(0))
    rest = sizes.run % VECTOR
    whole = sizes.run - rest
    if corners == ALL_CORNERS:
        for c in range(0, whole, VECTOR):
            value = weighted_corners(sizes, image, pixel + c, ALL_CORNERS, weights, VECTOR, zero)
            store_vector(columns, cell + c, VECTOR, scaled(mask, value))
    else:
        for c in range(0, whole, VECTOR):
            value = weighted_corners(sizes, image, pixel + c, corners, weights, VECTOR, zero)
            store_vector(columns, cell + c, VECTOR, scaled(mask, value))
    if rest:
        value = weighted_corners(sizes, image, pixel + whole, corners, weights, rest, zero)
        store_vector(columns, cell + whole, rest, scaled(mask, value))


@inlined
def run_cells(sizes: Any, at: Any) -> Any:
    """Element of the columns of each run of channels, at position 0 and the first tap."""
    taps = sizes.kernel_h * sizes.kernel_w
    cells = np.empty(sizes.channels // sizes.run, np.int64)
    for run in range(len(cells)):
        channel = run * sizes.run
        group = channel // sizes.group_channels
        before = (group * at.positions - at.origin) * taps - group
        cells[run] = before * sizes.group_channels + channel
    return cells


@inlined
def cell_step(sizes: Any, position: Any, tap: Any) -> Any:
    """From there to another position and tap."""
    return (position * sizes.kernel_h * sizes.kernel_w + tap) * sizes.group_channels


@loop
def gather_columns(
    sizes: Any, first: Any, last: Any, image: Any, samples: Any, columns: Any, at: Any
) -> None:
    """Sample the images at every tap of some positions; ``columns`` are written."""
    cells = run_cells(sizes, at)
    runs = len(cells) // sizes.offset_groups
    block = new_block(image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                for k in range(count):
                    flags = block.flags[k]
                    corners = 0 if flags & AT_MINUS_ONE else flags & ALL_CORNERS
                    weights = corner_weights(block.frac_y[k], block.frac_x[k])
                    step = cell_step(sizes, position + k, tap)
                    for run in range(runs):
                        gather_run(
                            sizes,
                            image,
                            block.pixel[k] + run * sizes.run,
                            corners,
                            weights,
                            block.mask[k],
                            columns,
                            cells[og * runs + run] + step,
                        )
        position += count


@inlined
def add_to_corner(image: Any, pixel: Any, weight: Any, value: Any, count: Any) -> None:
    """Add to a corner of a sample."""
    store_vector(image, pixel, count, add_scaled(load_vector(image, pixel, count), weight, value))


@inlined
def scatter_run(
    sizes: Any, image: Any, pixel: Any, gains: Any, weights: Any, columns: Any, cell: Any
) -> None:
    """Add a run of channels of a sample to the corners that gain."""
    col, row = sizes.channels, sizes.in_w * sizes.channels
    for c in range(0, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        value = load_vector(columns, cell + c, count)
        if gains & 1:
            add_to_corner(image, pixel + c, weights[0], value, count)
        if gains & 2:
            add_to_corner(image, pixel + c + col, weights[1], value, count)
        if gains & 4:
            add_to_corner(image, pixel + c + row, weights[2], value, count)
        if gains & 8:
            add_to_corner(image, pixel + c + row + col, weights[3], value, count)


@inlined
def scatter_weight(bilinear: Any, mask: Any) -> Any:
    """What a corner gains, as a factor. A corner of weight 0 gains nothing, whatever the mask."""
    zero = type(bilinear)(0)
    return zero if bilinear == zero else bilinear * mask


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
    first_run: Any,
    last_run: Any,
    samples: Any,
    grad_columns: Any,
    at: Any,
    grad_image: Any,
) -> None:
    """Add the gradient of some runs of the columns' channels to the gradient of the images.

    Samples are added in the order of positions, taps and offset groups; threads that take other
    runs of channels write other elements.
    """
    cells = run_cells(sizes, at)
    runs = len(cells) // sizes.offset_groups
    block = new_block(grad_image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(first_run // runs, (last_run - 1) // runs + 1):
                locate(sizes, block, n, position, count, tap, og, samples)
                begin, end = max(0, first_run - og * runs), min(runs, last_run - og * runs)
                for k in range(count):
                    flags = block.flags[k]
                    corners = 0 if flags & AT_MINUS_ONE else flags & ALL_CORNERS
                    a, b, c, d = corner_weights(block.frac_y[k], block.frac_x[k])
                    m = block.mask[k]
                    weights = (
                        scatter_weight(a, m),
                        scatter_weight(b, m),
                        scatter_weight(c, m),
                        scatter_weight(d, m),
                    )
                    gains = corners_that_gain(corners, weights)
                    step = cell_step(sizes, position + k, tap)
                    for run in range(begin, end):
                        scatter_run(
                            sizes,
                            grad_image,
                            block.pixel[k] + run * sizes.run,
                            gains,
                            weights,
                            grad_columns,
                            cells[og * runs + run] + step,
                        )
        position += count
