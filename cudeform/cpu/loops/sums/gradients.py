"""The loop over samples of the backward: gradients of offset and mask. Arguments as in gather.py.

They follow from corner dots, see ``loops/gradients.py``; here the gradient of a sample is that of
the output at its position and group.
"""

from __future__ import annotations

from typing import Any

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
from cudeform.cpu.loops.sums.arguments import positions_pointer, sum_pointers
from cudeform.cpu.loops.sums.coordinates import (
    FACTOR,
    begin_positions,
    begin_taps,
    index_in,
    level_of,
    locate_samples,
    new_sum_block,
)
from cudeform.cpu.loops.unrolled import all_corners, per_corner, same_for
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    local_array,
    pointer_to,
    scalar_like,
    splat,
    store_lane_sums,
)


@inlined
def corner_dots(
    sizes: Any, block: Any, k: Any, image: Any, grad_output: Any, grad_index: Any
) -> Any:
    """The corner dots of sample ``k`` of a block, lane by lane."""
    level, flags = level_of(sizes, block, k), block.integers[FLAGS + k]
    pixel, every = block.pixels[k], all_corners(level.size)
    dots = per_corner(level.size, same_for, (splat(scalar_like(image, 0)),))
    # The value of the sample is not used, so the compiler leaves out the weights.
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
def store_gradients(
    block: Any, gradients: Any, first: Any, taps: Any, grads: Any, k: Any, group: Any, tap: Any
) -> None:
    """Write the gradients of the samples of position ``k`` of a block into arrays."""
    offset, mask = grads
    if offset.present:
        index = index_in(offset, block, k, group, tap)
        for x in range(first, first + taps):
            y = x + BLOCK
            grad_x, grad_y = gradients[GRAD_OFFSET + x], gradients[GRAD_OFFSET + y]
            offset.array[index] = block.numbers[FACTOR + x] * grad_x
            offset.array[index + offset.pair] = block.numbers[FACTOR + y] * grad_y
            index += offset.tap
    if mask.present:
        index = index_in(mask, block, k, group, tap)
        for sample in range(first, first + taps):
            mask.array[index] = gradients[GRAD_MASK + sample]
            index += mask.tap


@loop
def sum_gradients(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    table: Any,
    samples: Any,
    grad_output: Any,
    grads: Any,
    zero_boundary_grad: Any,
) -> None:
    """Write the gradients of offset and mask of positions ``first`` to ``last``.

    Args:
        sizes, first, last, image, table, samples: as in ``gather.py``.
        grad_output: gradient of the output, see Positions.
        grads: gradients of offset and mask.
        zero_boundary_grad: whether the offset's gradient is 0 at a coordinate of exactly -1.
    """
    image, samples, grads = pointer_to(image), sum_pointers(samples), sum_pointers(grads)
    grad_output = positions_pointer(grad_output)
    block, gradients = new_sum_block(image), local_array(GRADIENTS, scalar_like(image, 0))
    for k in range(GRADIENTS):
        gradients[k] = scalar_like(image, 0)
    for first_tap in range(0, sizes.taps, BLOCK):
        taps, positions = begin_taps(sizes, block, table, first_tap)
        for group in range(sizes.groups):
            for position in range(first, last, positions):
                count = min(positions, last - position)
                begin_positions(sizes, block, position, count)
                locate_samples(sizes, block, count, first_tap, taps, group, samples)
                for k in range(count):
                    grad_index = index_in(grad_output, block, k, group, 0)
                    for sample in range(k * taps, (k + 1) * taps):
                        dots = corner_dots(
                            sizes, block, sample, image, grad_output.array, grad_index
                        )
                        at = dots_at(level_of(sizes, block, sample), sample)
                        store_lane_sums(gradients, at, dots)
                any_level = level_of(sizes, block, 0)
                set_gradients(any_level, block, gradients, zero_boundary_grad)
                for k in range(count):
                    store_gradients(block, gradients, k * taps, taps, grads, k, group, first_tap)
