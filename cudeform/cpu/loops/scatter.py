"""Gradients of columns scattered to the gradient of the images. Arguments as in ``sampling.py``."""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.arguments import pointers
from cudeform.cpu.loops.coordinates import (
    ALL_CORNERS,
    FLAGS,
    FRAC_X,
    FRAC_Y,
    MASK,
    block_at,
    locate,
    new_block,
)
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import cell_step, corner_weights, counting_corners, first_cell
from cudeform.cpu.loops.vectors import VECTOR, add_scaled, load_vector, pointer_to, store_vector


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
