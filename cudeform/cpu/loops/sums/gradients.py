"""The loop over samples of the backward: gradients of offset and mask, and of the images.

The gradients of offset and mask follow from the corner dots, see ``dots.py``. Arguments as in
``gather.py``.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import BLOCK
from cudeform.cpu.loops.gradients import (
    GRAD_MASK,
    GRAD_OFFSET,
    GRADIENTS,
    dots_at,
    set_gradients,
)
from cudeform.cpu.loops.jit import inlined, loop
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
from cudeform.cpu.loops.sums.dots import corner_dots, run_sizes, visit_sample
from cudeform.cpu.loops.sums.pairs import store_pairs
from cudeform.cpu.loops.sums.weights import weigh_gradients, weights_of
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    local_array,
    pointer_to,
    scalar_like,
    store_lane_sums,
)


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
