"""The loops over samples of forward mode and second order.

With ``w`` the bilinear weights of a sample, ``w'`` their slopes, ``m`` its mask and ``x`` the
pixels at its corners, the tangent of a column along tangents ``v`` of its operands is

    sum_j t_j x_j + sum_j m w_j v_x,j    where  t = v_m w + m (v_dy w'_y + v_dx w'_x).

Arguments are those of ``sampling.py``, and ``tangents``: those of offset and mask, as ``samples``;
empty where they are 0. Names as in ``kernels/move.cuh``.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import (
    ALL_CORNERS,
    AT_MINUS_ONE,
    NAN_COORD,
    block_at,
    element,
    locate,
    new_block,
)
from cudeform.cpu.loops.gradients import add_dots, lane_sums, slopes, weighted_dots
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    cell_step,
    corner_weights,
    corners_that_gain,
    run_cells,
    scatter_run,
    weighted_corners,
)
from cudeform.cpu.loops.vectors import VECTOR, filled, store_vector


@inlined
def tangents_at(sizes: Any, tangents: Any, n: Any, position: Any, tap: Any, og: Any) -> Any:
    """Tangents of dy, dx and mask of a sample."""
    zero = tangents.offset.dtype.type(0)
    plane = og * sizes.kernel_h * sizes.kernel_w + tap
    pixel = position - n * sizes.out_pixels
    dy, dx, mask = zero, zero, zero
    if len(tangents.offset):
        dy = tangents.offset[element(tangents.offset_planes, n, 2 * plane, pixel)]
        dx = tangents.offset[element(tangents.offset_planes, n, 2 * plane + 1, pixel)]
    if len(tangents.mask):
        mask = tangents.mask[element(tangents.mask_planes, n, plane, pixel)]
    return dy, dx, mask


@inlined
def weight_tangents(
    flags: Any, fy: Any, fx: Any, mask: Any, tangents: Any, zero_boundary_grad: Any
) -> Any:
    """How the weights of the corners change, mask included; 0 for a corner out of bounds.

    At a coordinate of -1 the sample is 0 and so is its change with the mask; whether it changes
    with the offset is a convention.
    """
    one, zero = type(fy)(1), type(fy)(0)
    dy, dx, value = tangents
    slope = mask
    if flags & AT_MINUS_ONE:
        value = zero
        slope = zero if zero_boundary_grad else mask
    a, b, c, d = corner_weights(fy, fx)
    top, left = one - fy, one - fx
    a = value * a + slope * (-left * dy - top * dx)
    b = value * b + slope * (-fx * dy + top * dx)
    c = value * c + slope * (left * dy - fy * dx)
    d = value * d + slope * (fx * dy + fy * dx)
    return (
        a if flags & 1 else zero,
        b if flags & 2 else zero,
        c if flags & 4 else zero,
        d if flags & 8 else zero,
    )


@inlined
def masked_weights(flags: Any, fy: Any, fx: Any, mask: Any) -> Any:
    """Weights of the corners that count for the value of a sample, mask included; else 0."""
    zero = type(fy)(0)
    corners = 0 if flags & AT_MINUS_ONE else flags & ALL_CORNERS
    a, b, c, d = corner_weights(fy, fx)
    return (
        a * mask if corners & 1 else zero,
        b * mask if corners & 2 else zero,
        c * mask if corners & 4 else zero,
        d * mask if corners & 8 else zero,
    )


@loop
def gather_tangents(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    image_tangent: Any,
    samples: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    columns: Any,
    at: Any,
) -> None:
    """The tangent of the columns; ``image_tangent`` is empty where it is 0."""
    cells = run_cells(sizes, at)
    runs = len(cells) // sizes.offset_groups
    block = new_block(image)
    nothing = filled(image.dtype.type(0))
    weights_change = len(tangents.offset) or len(tangents.mask)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                for k in range(count):
                    flags, mask = block.flags[k], block.mask[k]
                    fy, fx = block.frac_y[k], block.frac_x[k]
                    along = tangents_at(sizes, tangents, n, position + k, tap, og)
                    turn = weight_tangents(flags, fy, fx, mask, along, zero_boundary_grad)
                    weights = masked_weights(flags, fy, fx, mask)
                    step = cell_step(sizes, position + k, tap)
                    for run in range(runs):
                        pixel = block.pixel[k] + run * sizes.run
                        for c in range(0, sizes.run, VECTOR):
                            width = min(VECTOR, sizes.run - c)
                            value = nothing
                            if flags & NAN_COORD:
                                value = filled(mask)
                            if weights_change:
                                value = weighted_corners(
                                    sizes, image, pixel + c, flags, turn, width, value
                                )
                            if len(image_tangent):
                                value = weighted_corners(
                                    sizes, image_tangent, pixel + c, flags, weights, width, value
                                )
                            cell = cells[og * runs + run] + step + c
                            store_vector(columns, cell, width, value)
        position += count


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
    cells = run_cells(sizes, at)
    runs = len(cells) // sizes.offset_groups
    taps = sizes.kernel_h * sizes.kernel_w
    block = new_block(image)
    nothing = filled(image.dtype.type(0))
    weights_change = len(tangents.offset) or len(tangents.mask)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        pixel = position - n * sizes.out_pixels
        for tap in range(taps):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                plane = og * taps + tap
                to_y = element(grads.offset_planes, n, 2 * plane, pixel)
                to_x = element(grads.offset_planes, n, 2 * plane + 1, pixel)
                to_mask = element(grads.mask_planes, n, plane, pixel)
                for k in range(count):
                    flags, mask = block.flags[k], block.mask[k]
                    along = tangents_at(sizes, tangents, n, position + k, tap, og)
                    step = cell_step(sizes, position + k, tap)
                    still = (nothing, nothing, nothing, nothing)
                    moved = (nothing, nothing, nothing, nothing)
                    for run in range(runs):
                        start = block.pixel[k] + run * sizes.run
                        cell = cells[og * runs + run] + step
                        if weights_change:
                            still = add_dots(sizes, image, start, flags, grad_columns, cell, still)
                        if len(image_tangent):
                            moved = add_dots(
                                sizes, image_tangent, start, flags, grad_columns, cell, moved
                            )
                        if len(tangent_grad_columns):
                            moved = add_dots(
                                sizes, image, start, flags, tangent_grad_columns, cell, moved
                            )
                    by_y, by_x, by_mask = second_gradients(
                        flags,
                        block.frac_y[k],
                        block.frac_x[k],
                        mask,
                        along,
                        lane_sums(still),
                        lane_sums(moved),
                        zero_boundary_grad,
                    )
                    if len(grads.offset):
                        grads.offset[to_y + k] = by_y
                        grads.offset[to_x + k] = by_x
                    if len(grads.mask):
                        grads.mask[to_mask + k] = by_mask
        position += count


@loop
def scatter_tangents(
    sizes: Any,
    first: Any,
    last: Any,
    first_run: Any,
    last_run: Any,
    samples: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    grad_columns: Any,
    at: Any,
    grad_image: Any,
) -> None:
    """As ``sampling.scatter``, with the changes of the corners' weights in their place."""
    cells = run_cells(sizes, at)
    runs = len(cells) // sizes.offset_groups
    block = new_block(grad_image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(first_run // runs, (last_run - 1) // runs + 1):
                locate(sizes, block, n, position, count, tap, og, samples)
                begin, end = max(0, first_run - og * runs), min(runs, last_run - og * runs)
                for k in range(count):
                    along = tangents_at(sizes, tangents, n, position + k, tap, og)
                    turn = weight_tangents(
                        block.flags[k],
                        block.frac_y[k],
                        block.frac_x[k],
                        block.mask[k],
                        along,
                        zero_boundary_grad,
                    )
                    gains = corners_that_gain(block.flags[k], turn)
                    step = cell_step(sizes, position + k, tap)
                    for run in range(begin, end):
                        scatter_run(
                            sizes,
                            grad_image,
                            block.pixel[k] + run * sizes.run,
                            gains,
                            turn,
                            grad_columns,
                            cells[og * runs + run] + step,
                        )
        position += count
