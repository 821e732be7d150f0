"""The loop over samples of second order: gradients of offset and mask along tangents.

Arguments as in ``tangents.py``.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.arguments import planes_at, pointers
from cudeform.cpu.loops.coordinates import (
    AT_MINUS_ONE,
    FLAGS,
    FRAC_X,
    FRAC_Y,
    MASK,
    NAN_COORD,
    block_at,
    locate,
    new_block,
)
from cudeform.cpu.loops.gradients import add_corners, slopes, weighted_dots
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    corner_weights,
    first_cell,
)
from cudeform.cpu.loops.tangents import change, tangents_at
from cudeform.cpu.loops.vectors import (
    VECTOR,
    filled,
    load_vector,
    number,
    pointer_to,
    room_for,
    store_lane_sums,
)


@inlined
def add_dots(
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    grad_columns: Any,
    at: Any,
    channel: Any,
    position: Any,
    tap: Any,
    dots: Any,
) -> Any:
    """Add the channels of a sample to its corner dots, lane by lane."""
    zero = number(image, 0)
    weights = zero, zero, zero, zero
    for c in range(0, sizes.channels // sizes.offset_groups, sizes.run):
        cell = first_cell(sizes, at, channel + c, position, tap)
        for v in range(0, sizes.run, VECTOR):
            count = min(VECTOR, sizes.run - v)
            grad = load_vector(grad_columns, cell + v, count)
            dots, _ = add_corners(sizes, image, pixel + c + v, corners, weights, grad, dots, count)
    return dots


@inlined
def second_gradients(
    flags: Any,
    fy: Any,
    fx: Any,
    mask: Any,
    tangents: Any,
    still: Any,
    moved: Any,
    zero_boundary_grad: Any,
) -> Any:
    """Gradients of dy, dx and mask from two kinds of corner dots, see :func:`sample_seconds`."""
    zero = type(fy)(0)
    if flags & NAN_COORD:
        return mask, mask, mask
    dy, dx, change = tangents
    by_y = by_x = by_mask = zero
    if not (flags & AT_MINUS_ONE and zero_boundary_grad):
        still_y, still_x = slopes(fy, fx, still)
        moved_y, moved_x = slopes(fy, fx, moved)
        # The one second derivative of a bilinear surface is the mixed one.
        twist = mask * (still[0] - still[1] - still[2] + still[3])
        by_y = mask * moved_y + change * still_y + dx * twist
        by_x = mask * moved_x + change * still_x + dy * twist
        by_mask = dy * still_y + dx * still_x
    if not flags & AT_MINUS_ONE:
        by_mask += weighted_dots(corner_weights(fy, fx), moved)
    return by_y, by_x, by_mask


@loop
def sample_seconds(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    image_tangent: Any,
    samples: Any,
    tangents: Any,
    grad_columns: Any,
    tangent_grad_columns: Any,
    at: Any,
    grads: Any,
    zero_boundary_grad: Any,
) -> None:
    """Gradients of offset and mask of ``sum(column_tangents * grad_columns)``.

    With ``x`` the pixels, ``v`` their tangents, ``c`` the gradient of the columns that meet the
    weight and ``o`` of those that meet its tangent, they need the corner dots ``still = c.x`` and
    ``moved = c.v + o.x``.

    Args:
        sizes, first, last, image, samples, at: as in ``sampling.py``.
        image_tangent: as image; empty where it is 0.
        tangents: of the samples.
        grad_columns: ``c``.
        tangent_grad_columns: ``o``; empty where it is 0.
        grads: written; those that are empty are not.
        zero_boundary_grad: samples with a coordinate of -1 have no gradient.
    """
    weights_change, image_changes = change(tangents), len(image_tangent) > 0
    weight_changes = len(tangent_grad_columns) > 0
    has_offset, has_mask = len(grads.offset) > 0, len(grads.mask) > 0
    image, image_tangent = pointer_to(image), pointer_to(image_tangent)
    samples, tangents, grads = pointers(samples), pointers(tangents), pointers(grads)
    grad_columns = pointer_to(grad_columns)
    tangent_grad_columns = pointer_to(tangent_grad_columns)
    zero = filled(number(image, 0))
    nothing = zero, zero, zero, zero
    block, room = new_block(image), room_for(8, number(image, 0))
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                channel = og * (sizes.channels // sizes.offset_groups)
                y, x, m = planes_at(sizes, grads, n, position, tap, og)
                for k in range(count):
                    flags, pixel = block.integers[FLAGS + k], block.pixels[k]
                    where = at, channel, position + k, tap
                    still, moved = nothing, nothing
                    if weights_change:
                        still = add_dots(sizes, image, pixel, flags, grad_columns, *where, still)
                    if image_changes:
                        moved = add_dots(
                            sizes, image_tangent, pixel, flags, grad_columns, *where, moved
                        )
                    if weight_changes:
                        moved = add_dots(
                            sizes, image, pixel, flags, tangent_grad_columns, *where, moved
                        )
                    store_lane_sums(room, 0, still)
                    store_lane_sums(room, 4, moved)
                    by_y, by_x, by_mask = second_gradients(
                        flags,
                        block.numbers[FRAC_Y + k],
                        block.numbers[FRAC_X + k],
                        block.numbers[MASK + k],
                        tangents_at(sizes, tangents, n, position + k, tap, og),
                        (room[0], room[1], room[2], room[3]),
                        (room[4], room[5], room[6], room[7]),
                        zero_boundary_grad,
                    )
                    if has_offset:
                        grads.offset[y + k] = by_y
                        grads.offset[x + k] = by_x
                    if has_mask:
                        grads.mask[m + k] = by_mask
        position += count
