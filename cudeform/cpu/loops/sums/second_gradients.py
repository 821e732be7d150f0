"""The loop over samples of the double backward: gradients of offset and mask along tangents.

Arguments as in ``tangents.py``; see ``loops/second_gradients.py`` for the corner dots.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import BLOCK, FLAGS, MASK, fractions
from cudeform.cpu.loops.gradients import load_dot
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.second_gradients import ALL_DOTS, DOTS, DOTS_TANGENT, second_gradients
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
from cudeform.cpu.loops.sums.gradients import corner_dots
from cudeform.cpu.loops.sums.tangents import tangents_of
from cudeform.cpu.loops.unrolled import per_corner, same_for
from cudeform.cpu.loops.vectors import (
    local_array,
    pointer_to,
    scalar_like,
    splat,
    store_lane_sums,
)


@inlined
def store_seconds(
    block: Any, grads: Any, k: Any, sample: Any, group: Any, tap: Any, values: Any
) -> None:
    """Write the gradients of displacements and mask of a sample as those of offset and mask."""
    (by_x, by_y), by_mask = values
    offset, mask = grads
    if offset.present:
        index = index_in(offset, block, k, group, tap)
        offset.array[index] = block.numbers[FACTOR + sample] * by_x
        offset.array[index + offset.pair] = block.numbers[FACTOR + BLOCK + sample] * by_y
    if mask.present:
        mask.array[index_in(mask, block, k, group, tap)] = by_mask


@loop
def second_sum_gradients(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    image_tangent: Any,
    has_image_tangent: Any,
    table: Any,
    samples: Any,
    tangents: Any,
    grad_output: Any,
    grads: Any,
    zero_boundary_grad: Any,
) -> None:
    """Write the gradients of offset and mask of ``sum(grad_output * output_tangent)``."""
    image, image_tangent = pointer_to(image), pointer_to(image_tangent)
    samples, tangents, grads = sum_pointers(samples), sum_pointers(tangents), sum_pointers(grads)
    grad_output = positions_pointer(grad_output)
    block, sums = new_sum_block(image), local_array(ALL_DOTS, scalar_like(image, 0))
    for first_tap in range(0, sizes.taps, BLOCK):
        taps, positions = begin_taps(sizes, block, table, first_tap)
        for group in range(sizes.groups):
            for position in range(first, last, positions):
                count = min(positions, last - position)
                begin_positions(sizes, block, position, count)
                locate_samples(sizes, block, count, first_tap, taps, group, samples)
                for k in range(count):
                    grad_index = index_in(grad_output, block, k, group, 0)
                    for tap in range(taps):
                        sample, index = k * taps + tap, first_tap + tap
                        level = level_of(sizes, block, sample)
                        here = grad_output.array, grad_index
                        dots = corner_dots(sizes, block, sample, image, *here)
                        dots_tangent = per_corner(
                            level.size, same_for, (splat(scalar_like(image, 0)),)
                        )
                        if has_image_tangent:
                            dots_tangent = corner_dots(sizes, block, sample, image_tangent, *here)
                        store_lane_sums(sums, DOTS, dots)
                        store_lane_sums(sums, DOTS_TANGENT, dots_tangent)
                        values = second_gradients(
                            block.integers[FLAGS + sample],
                            fractions(level, block, sample),
                            block.numbers[MASK + sample],
                            tangents_of(block, tangents, k, sample, group, index),
                            per_corner(level.size, load_dot, (sums, DOTS)),
                            per_corner(level.size, load_dot, (sums, DOTS_TANGENT)),
                            zero_boundary_grad,
                        )
                        store_seconds(block, grads, k, sample, group, index, values)
