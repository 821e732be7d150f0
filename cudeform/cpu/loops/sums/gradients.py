"""The loop over samples of the backward: gradients of offset and mask, and of the images.

The gradients of offset and mask follow from the corner dots, see ``loops/gradients.py``. Here the
gradient of a sample is the gradient of the output at its position and group. Arguments as in
``gather.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cudeform.cpu.loops.coordinates import BLOCK, FLAGS
from cudeform.cpu.loops.gradients import (
    GRAD_MASK,
    GRAD_OFFSET,
    GRADIENTS,
    add_corners,
    dots_at,
    set_gradients,
)
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import corner_step
from cudeform.cpu.loops.scatter import scatter_run
from cudeform.cpu.loops.sums.arguments import positions_pointer, sum_pointers
from cudeform.cpu.loops.sums.blocks import each_block
from cudeform.cpu.loops.sums.coordinates import (
    CORNERS,
    FACTOR,
    index_in,
    level_of,
    new_sum_block,
)
from cudeform.cpu.loops.sums.pairs import store_pairs
from cudeform.cpu.loops.sums.weights import weigh_gradients, weights_of
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
    local_array,
    pointer_to,
    scalar_like,
    splat,
    store_lane_sums,
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


@inlined
def store_gradients(block: Any, part: Any, gradients: Any, grads: Any, k: Any) -> None:
    """Write the gradients of the samples of position ``k`` of a block into arrays."""
    offset, mask = grads
    first, taps = k * part.taps, part.taps
    if offset.present:
        index = index_in(offset, block, k, part.group, part.first_tap)
        if offset.pair == 1 and offset.tap == 2:
            for tap in range(0, taps, VECTOR):
                x = load_vector(gradients, GRAD_OFFSET + first + tap, VECTOR)
                y = load_vector(gradients, GRAD_OFFSET + BLOCK + first + tap, VECTOR)
                store_pairs(offset.array, index + 2 * tap, min(VECTOR, taps - tap), x, y)
        else:
            for x in range(GRAD_OFFSET + first, GRAD_OFFSET + first + taps):
                offset.array[index] = gradients[x]
                offset.array[index + offset.pair] = gradients[x + BLOCK]
                index += offset.tap
    if mask.present:
        index = index_in(mask, block, k, part.group, part.first_tap)
        for sample in range(first, first + taps):
            mask.array[index] = gradients[GRAD_MASK + sample]
            index += mask.tap


@inlined
def backward_block(
    sizes: Any,
    block: Any,
    part: Any,
    image: Any,
    gradients: Any,
    grad_output: Any,
    channels: Any,
    grads: Any,
    zero_boundary_grad: Any,
    grad_image: Any,
    has_grad_image: Any,
) -> None:
    """Write and add the gradients of the samples of a part of a block."""
    has_grads = grads.offset.present or grads.mask.present
    if has_grad_image:
        weigh_gradients(sizes, block)
    for k in range(part.positions):
        grad_index = index_in(grad_output, block, k, part.group, 0)
        here = grad_output.array, grad_index
        for sample in range(k * part.taps, (k + 1) * part.taps):
            level = run_sizes(sizes, block, sample, channels[1] - channels[0])
            if not has_grads:
                scatter_run(
                    level,
                    grad_image,
                    block.pixels[sample] + channels[0],
                    block.integers[CORNERS + sample],
                    weights_of(level, block, sample),
                    grad_output.array,
                    grad_index + channels[0],
                )
            elif has_grad_image:
                dots = visit_sample(sizes, block, sample, image, grad_image, *here)
                store_lane_sums(gradients, dots_at(level, sample), dots)
            else:
                dots = corner_dots(sizes, block, sample, image, *here)
                store_lane_sums(gradients, dots_at(level, sample), dots)
    if has_grads:
        any_level = level_of(sizes, block, 0)
        set_gradients(any_level, block, gradients, zero_boundary_grad)
        for x in range(BLOCK):
            y = x + BLOCK
            gradients[GRAD_OFFSET + x] *= block.numbers[FACTOR + x]
            gradients[GRAD_OFFSET + y] *= block.numbers[FACTOR + y]
        for k in range(part.positions):
            store_gradients(block, part, gradients, grads, k)


@loop
def sum_gradients(
    sizes: Any,
    first: Any,
    last: Any,
    groups: Any,
    channels: Any,
    image: Any,
    table: Any,
    samples: Any,
    grad_output: Any,
    grads: Any,
    zero_boundary_grad: Any,
    grad_image: Any,
    has_grad_image: Any,
) -> None:
    """Write the gradients of offset and mask, and add to the gradient of an image.

    With at most BLOCK taps, samples are added to the gradient of the image in the order of
    positions and taps. Threads with disjoint groups or ranges of channels write disjoint elements.

    Args:
        sizes, first, last, image, table, samples: as in ``gather.py``.
        groups: the first group, and the one after the last.
        channels: the first channel of a group to add to the gradient of the image, and the one
            after the last.
        grad_output: gradient of the output, see Positions.
        grads: gradients of offset and mask.
        zero_boundary_grad: whether the offset's gradient is 0 at a coordinate of exactly -1.
        grad_image: first element of the gradient of the image, as an array of length 1. The
            gradient has the strides of the image.
        has_grad_image: whether the gradient of the image is computed.
    """
    image, samples, grads = pointer_to(image), sum_pointers(samples), sum_pointers(grads)
    grad_output, grad_image = positions_pointer(grad_output), pointer_to(grad_image)
    block, gradients = new_sum_block(image), local_array(GRADIENTS, scalar_like(image, 0))
    for k in range(GRADIENTS):
        gradients[k] = scalar_like(image, 0)
    work = (
        image,
        gradients,
        grad_output,
        channels,
        grads,
        zero_boundary_grad,
        grad_image,
        has_grad_image,
    )
    each_block(sizes, (first, last), groups, table, samples, block, backward_block, work)
