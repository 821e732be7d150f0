"""Gradients of columns scattered to the gradient of the images. Arguments as in ``sampling.py``."""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.arguments import pointers
from cudeform.cpu.loops.coordinates import FLAGS, MASK, begin_block, fractions, locate, new_block
from cudeform.cpu.loops.corners import corner_weight
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    column_index,
    contributing_corners,
    corner_step,
    position_step,
)
from cudeform.cpu.loops.unrolled import all_corners, item, over_corners, per_corner
from cudeform.cpu.loops.vectors import VECTOR, add_scaled, load_vector, pointer_to, store_vector


@inlined
def add_to_corner(
    corner: Any,
    sizes: Any,
    image: Any,
    pixel: Any,
    receiving: Any,
    weights: Any,
    value: Any,
    count: Any,
) -> None:
    """Add to the gradient of a corner if the corner is in ``receiving``."""
    if receiving & (1 << corner):
        plane_index = pixel + corner_step(corner, sizes)
        total = add_scaled(load_vector(image, plane_index, count), item(weights, corner), value)
        store_vector(image, plane_index, count, total)


@inlined
def add_to_corners(
    sizes: Any, image: Any, pixel: Any, receiving: Any, weights: Any, value: Any, count: Any
) -> None:
    """Add to the gradients of the corners in ``receiving``."""
    arguments = sizes, image, pixel, receiving, weights, value, count
    per_corner(sizes.size, add_to_corner, arguments)


@inlined
def scatter_run(
    sizes: Any, image: Any, pixel: Any, receiving: Any, weights: Any, columns: Any, column: Any
) -> None:
    """Add a run of channels of a sample to the gradients of the corners in ``receiving``."""
    first, whole, every = 0, sizes.run - sizes.run % VECTOR, all_corners(sizes.size)
    if receiving == every:
        for c in range(0, whole, VECTOR):
            value = load_vector(columns, column + c, VECTOR)
            add_to_corners(sizes, image, pixel + c, every, weights, value, VECTOR)
        first = whole
    for c in range(first, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        value = load_vector(columns, column + c, count)
        add_to_corners(sizes, image, pixel + c, receiving, weights, value, count)


@inlined
def scatter_weight(corner: Any, fractions: Any, mask: Any) -> Any:
    """Factor between the gradient of a sample and its contribution to the gradient of a corner.

    It is 0 for a corner of weight 0, even if the mask is infinite or NaN.
    """
    weight = corner_weight(corner, fractions)
    zero = type(weight)(0)
    return zero if weight == zero else weight * mask


@inlined
def scatter_weights(fractions: Any, mask: Any) -> Any:
    """The factors of all corners."""
    return per_corner(fractions, scatter_weight, (fractions, mask))


@inlined
def add_receiving_corner(corner: Any, receiving: Any, corners: Any, weights: Any) -> Any:
    """Add a corner to the set ``receiving`` if it is in ``corners`` and its weight is not 0."""
    return receiving | (corners & (1 << corner) if item(weights, corner) != 0 else 0)


@inlined
def corners_receiving_grad(sizes: Any, corners: Any, weights: Any) -> Any:
    """The set of those corners in ``corners`` whose weight is not 0."""
    return over_corners(sizes.size, add_receiving_corner, 0, (corners, weights))


@loop
def scatter(
    sizes: Any,
    first: Any,
    last: Any,
    first_channel: Any,
    last_channel: Any,
    samples: Any,
    grad_columns: Any,
    layout: Any,
    grad_image: Any,
) -> None:
    """Add the gradient of the columns to the gradient of the images, for a range of channels.

    Samples are added in the order of positions, taps and offset groups. Threads with disjoint
    ranges of channels write disjoint elements.
    """
    grad_image, grad_columns = pointer_to(grad_image), pointer_to(grad_columns)
    samples = pointers(samples)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(grad_image)
    position = first
    while position < last:
        n, count = begin_block(sizes, block, position, last)
        for tap in range(sizes.taps):
            for og in range(first_channel // offset_channels, sizes.offset_groups):
                channel = og * offset_channels
                begin = max(0, first_channel - channel)
                end = min(offset_channels, last_channel - channel)
                if begin >= end:
                    break
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(begin, end, sizes.run):
                    column = column_index(sizes, layout, channel + c, position, tap)
                    for k in range(count):
                        weights = scatter_weights(
                            fractions(sizes, block, k), block.numbers[MASK + k]
                        )
                        corners = contributing_corners(sizes, block.integers[FLAGS + k])
                        scatter_run(
                            sizes,
                            grad_image,
                            block.pixels[k] + c,
                            corners_receiving_grad(sizes, corners, weights),
                            weights,
                            grad_columns,
                            column + k * position_step(sizes),
                        )
        position += count
