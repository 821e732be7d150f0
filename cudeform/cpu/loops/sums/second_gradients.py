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
from cudeform.cpu.loops.sums.blocks import each_block
from cudeform.cpu.loops.sums.coordinates import FACTOR, index_in, level_of, new_sum_block
from cudeform.cpu.loops.sums.dots import corner_dots, zero_dots
from cudeform.cpu.loops.sums.tangents import tangents_of
from cudeform.cpu.loops.unrolled import per_corner
from cudeform.cpu.loops.vectors import local_array, pointer_to, scalar_like, store_lane_sums


@inlined
def store_seconds(block: Any, grads: Any, part: Any, k: Any, tap: Any, values: Any) -> None:
    """Write the gradients of displacements and mask of a tap as those of offset and mask."""
    (by_x, by_y), by_mask = values
    offset, mask = grads
    at, sample = (k, part.group, part.first_tap + tap), k * part.taps + tap
    if offset.present:
        index = index_in(offset, block, *at)
        offset.array[index] = block.numbers[FACTOR + sample] * by_x
        offset.array[index + offset.pair] = block.numbers[FACTOR + BLOCK + sample] * by_y
    if mask.present:
        mask.array[index_in(mask, block, *at)] = by_mask


@inlined
def second_gradients_of(
    sizes: Any,
    block: Any,
    part: Any,
    image: Any,
    image_tangent: Any,
    has_image_tangent: Any,
    dots: Any,
    tangents: Any,
    grad_output: Any,
    grads: Any,
    zero_boundary_grad: Any,
) -> None:
    """Write the gradients of the samples of a part of a block."""
    for k in range(part.positions):
        here = grad_output.array, index_in(grad_output, block, k, part.group, 0)
        for tap in range(part.taps):
            sample = k * part.taps + tap
            level = level_of(sizes, block, sample)
            of_tangent = zero_dots(level, image)
            if has_image_tangent:
                of_tangent = corner_dots(sizes, block, sample, image_tangent, *here)
            store_lane_sums(dots, DOTS, corner_dots(sizes, block, sample, image, *here))
            store_lane_sums(dots, DOTS_TANGENT, of_tangent)
            values = second_gradients(
                block.integers[FLAGS + sample],
                fractions(level, block, sample),
                block.numbers[MASK + sample],
                tangents_of(block, tangents, part, k, tap),
                per_corner(level.size, load_dot, (dots, DOTS)),
                per_corner(level.size, load_dot, (dots, DOTS_TANGENT)),
                zero_boundary_grad,
            )
            store_seconds(block, grads, part, k, tap, values)


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
    block, dots = new_sum_block(image), local_array(ALL_DOTS, scalar_like(image, 0))
    images = image, image_tangent, has_image_tangent
    work = *images, dots, tangents, grad_output, grads, zero_boundary_grad
    everything = (first, last), (0, sizes.groups)
    each_block(sizes, *everything, table, samples, block, second_gradients_of, work)
