"""The corner dots of a sample, and its contribution to the gradients of its corners.

See ``loops/gradients.py`` for the corner dots. Here the gradient of a sample is the gradient of the
output at its position and group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cudeform.cpu.loops.coordinates import FLAGS
from cudeform.cpu.loops.gradients import add_corners
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.sampling import corner_step
from cudeform.cpu.loops.scatter import scatter_run
from cudeform.cpu.loops.sums.coordinates import CORNERS, level_of
from cudeform.cpu.loops.sums.weights import weights_of
from cudeform.cpu.loops.unrolled import (
    all_corners,
    item,
    over_corners,
    per_corner,
    same_for,
    with_item,
)
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_product,
    add_scaled,
    load_vector,
    scalar_like,
    splat,
    store_vector,
)


class RunSizes(NamedTuple):
    """The level of a sample, and the number of channels to scatter."""

    size: Any
    steps: Any
    run: Any


@inlined
def run_sizes(sizes: Any, block: Any, k: Any, channels: Any) -> Any:
    """The level of sample ``k`` of a block, and a number of channels."""
    level = level_of(sizes, block, k)
    return RunSizes(level.size, level.steps, channels)


@inlined
def zero_dots(level: Any, image: Any) -> Any:
    """The corner dots before any channel, lane by lane."""
    return per_corner(level.size, same_for, (splat(scalar_like(image, 0)),))


@inlined
def corner_dots(
    sizes: Any, block: Any, k: Any, image: Any, grad_output: Any, grad_index: Any
) -> Any:
    """The corner dots of sample ``k`` of a block, lane by lane."""
    level, flags = level_of(sizes, block, k), block.integers[FLAGS + k]
    pixel, every = block.pixels[k], all_corners(level.size)
    dots = zero_dots(level, image)
    # The value of the sample is not used, so the compiler removes the weights.
    weights = per_corner(level.size, same_for, (scalar_like(image, 0),))
    corners, channel = flags & every, 0
    if corners == every:
        while channel + VECTOR <= sizes.channels:
            grad = load_vector(grad_output, grad_index + channel, VECTOR)
            dots, _ = add_corners(level, image, pixel + channel, every, weights, grad, dots, VECTOR)
            channel += VECTOR
    while channel < sizes.channels:
        width = min(VECTOR, sizes.channels - channel)
        grad = load_vector(grad_output, grad_index + channel, width)
        dots, _ = add_corners(level, image, pixel + channel, corners, weights, grad, dots, width)
        channel += VECTOR
    return dots


@inlined
def visit_corner(
    corner: Any,
    dots: Any,
    level: Any,
    image: Any,
    grad_image: Any,
    pixel: Any,
    weights: Any,
    grad: Any,
) -> Any:
    """Add a vector of channels to the dot and to the gradient of a corner."""
    at = pixel + corner_step(corner, level)
    dot = add_product(item(dots, corner), grad, load_vector(image, at, VECTOR))
    total = add_scaled(load_vector(grad_image, at, VECTOR), item(weights, corner), grad)
    store_vector(grad_image, at, VECTOR, total)
    return with_item(dots, corner, dot)


@inlined
def visit_vector(
    channel: Any,
    dots: Any,
    level: Any,
    image: Any,
    grad_image: Any,
    pixel: Any,
    weights: Any,
    grad_output: Any,
    grad_index: Any,
) -> Any:
    """Add a vector of channels to the dots and to the gradients of all corners."""
    grad = load_vector(grad_output, grad_index + channel, VECTOR)
    sample = level, image, grad_image, pixel + channel, weights, grad
    return over_corners(level.size, visit_corner, dots, sample)


@inlined
def visit_sample(
    sizes: Any,
    block: Any,
    k: Any,
    image: Any,
    grad_image: Any,
    grad_output: Any,
    grad_index: Any,
) -> Any:
    """Add sample ``k`` of a block to the gradients of its corners; returns the corner dots."""
    level, corners = run_sizes(sizes, block, k, sizes.channels), block.integers[CORNERS + k]
    weights, pixel = weights_of(level, block, k), block.pixels[k]
    whole = sizes.channels % VECTOR == 0
    if whole and corners == all_corners(level.size):
        sample = level, image, grad_image, pixel, weights, grad_output, grad_index
        channel, dots = 0, zero_dots(level, image)
        while channel + 2 * VECTOR <= sizes.channels:
            dots = visit_vector(channel, dots, *sample)
            dots = visit_vector(channel + VECTOR, dots, *sample)
            channel += 2 * VECTOR
        if channel < sizes.channels:
            dots = visit_vector(channel, dots, *sample)
    else:
        dots = corner_dots(sizes, block, k, image, grad_output, grad_index)
        scatter_run(level, grad_image, pixel, corners, weights, grad_output, grad_index)
    return dots
