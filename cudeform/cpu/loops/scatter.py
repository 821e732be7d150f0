"""Gradients of columns scattered to the gradient of the images. Arguments as in ``sampling.py``."""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.arguments import pointers
from cudeform.cpu.loops.coordinates import FLAGS, MASK, block_at, fractions, locate, new_block
from cudeform.cpu.loops.corners import corner_weight
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import cell_step, corner_step, counting_corners, first_cell
from cudeform.cpu.loops.unrolled import all_corners, item, over_corners, per_corner
from cudeform.cpu.loops.vectors import VECTOR, add_scaled, load_vector, pointer_to, store_vector


@inlined
def add_to_corner(
    corner: Any,
    sizes: Any,
    image: Any,
    pixel: Any,
    gains: Any,
    weights: Any,
    value: Any,
    count: Any,
) -> None:
    """Add to a corner of a sample if it gains."""
    if gains & (1 << corner):
        at = pixel + corner_step(corner, sizes)
        total = add_scaled(load_vector(image, at, count), item(weights, corner), value)
        store_vector(image, at, count, total)


@inlined
def add_to_corners(
    sizes: Any, image: Any, pixel: Any, gains: Any, weights: Any, value: Any, count: Any
) -> None:
    """Add to the corners that gain."""
    arguments = sizes, image, pixel, gains, weights, value, count
    per_corner(sizes.size, add_to_corner, arguments)


@inlined
def scatter_run(
    sizes: Any, image: Any, pixel: Any, gains: Any, weights: Any, columns: Any, cell: Any
) -> None:
    """Add a run of channels of a sample to the corners that gain."""
    first, whole, every = 0, sizes.run - sizes.run % VECTOR, all_corners(sizes.size)
    if gains == every:
        for c in range(0, whole, VECTOR):
            value = load_vector(columns, cell + c, VECTOR)
            add_to_corners(sizes, image, pixel + c, every, weights, value, VECTOR)
        first = whole
    for c in range(first, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        value = load_vector(columns, cell + c, count)
        add_to_corners(sizes, image, pixel + c, gains, weights, value, count)


@inlined
def scatter_weight(corner: Any, fractions: Any, mask: Any) -> Any:
    """What a corner gains, as a factor. A corner of weight 0 gains nothing, whatever the mask."""
    weight = corner_weight(corner, fractions)
    zero = type(weight)(0)
    return zero if weight == zero else weight * mask


@inlined
def scatter_weights(fractions: Any, mask: Any) -> Any:
    """Those of the corners."""
    return per_corner(fractions, scatter_weight, (fractions, mask))


@inlined
def add_gain(corner: Any, gains: Any, corners: Any, weights: Any) -> Any:
    """Add a corner to those that gain if its weight is not 0."""
    return gains | (corners & (1 << corner) if item(weights, corner) != 0 else 0)


@inlined
def corners_that_gain(sizes: Any, corners: Any, weights: Any) -> Any:
    """Those whose weight is not 0."""
    return over_corners(sizes.size, add_gain, 0, (corners, weights))


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
        for tap in range(sizes.taps):
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
                            fractions(sizes, block, k), block.numbers[MASK + k]
                        )
                        corners = counting_corners(sizes, block.integers[FLAGS + k])
                        scatter_run(
                            sizes,
                            grad_image,
                            block.pixels[k] + c,
                            corners_that_gain(sizes, corners, weights),
                            weights,
                            grad_columns,
                            cell + k * cell_step(sizes),
                        )
        position += count
