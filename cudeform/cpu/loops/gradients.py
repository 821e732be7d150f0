"""The loop over samples of the backward: gradients of offset and mask, and the columns once more.

The gradients of offset and mask need no more than four numbers a sample, the *corner dots*: dot
products over channels of ``grad_columns`` and each corner. Names as in ``kernels/grads.cuh``.
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
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import cell_step, corner_weights, gather_run, run_cells
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_product,
    filled,
    lane_sum,
    load_vector,
)


@inlined
def add_dots(
    sizes: Any, image: Any, pixel: Any, corners: Any, grad_columns: Any, cell: Any, dots: Any
) -> Any:
    """Add a run of channels to the corner dots, lane by lane; a corner out of bounds adds 0."""
    col, row = sizes.channels, sizes.in_w * sizes.channels
    a, b, c, d = dots
    for first in range(0, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - first)
        at = pixel + first
        grad = load_vector(grad_columns, cell + first, count)
        if corners & 1:
            a = add_product(a, grad, load_vector(image, at, count))
        if corners & 2:
            b = add_product(b, grad, load_vector(image, at + col, count))
        if corners & 4:
            c = add_product(c, grad, load_vector(image, at + row, count))
        if corners & 8:
            d = add_product(d, grad, load_vector(image, at + row + col, count))
    return a, b, c, d


@inlined
def lane_sums(dots: Any) -> Any:
    """The corner dots from those of the lanes."""
    return lane_sum(dots[0]), lane_sum(dots[1]), lane_sum(dots[2]), lane_sum(dots[3])


@inlined
def slopes(fy: Any, fx: Any, dots: Any) -> Any:
    """Derivatives in y and x between four values at the corners."""
    one = type(fy)(1)
    slope_y = fx * (dots[3] - dots[1]) + (one - fx) * (dots[2] - dots[0])
    slope_x = fy * (dots[3] - dots[2]) + (one - fy) * (dots[1] - dots[0])
    return slope_y, slope_x


@inlined
def weighted_dots(weights: Any, dots: Any) -> Any:
    """The value between four values at the corners."""
    top = weights[0] * dots[0] + weights[1] * dots[1]
    return top + (weights[2] * dots[2] + weights[3] * dots[3])


@inlined
def gradients(flags: Any, fy: Any, fx: Any, mask: Any, dots: Any, zero_boundary_grad: Any) -> Any:
    """Gradients of dy, dx and mask from the corner dots."""
    zero = type(fy)(0)
    if flags & NAN_COORD:
        return mask, mask, mask
    slope_y, slope_x = slopes(fy, fx, dots)
    value = weighted_dots(corner_weights(fy, fx), dots)
    if flags & AT_MINUS_ONE:
        value = zero
        if zero_boundary_grad:
            slope_y = slope_x = zero
    return mask * slope_y, mask * slope_x, value


@loop
def sample_gradients(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    samples: Any,
    grad_columns: Any,
    grads: Any,
    zero_boundary_grad: Any,
    columns: Any,
    at: Any,
) -> None:
    """Gradients of offset and mask, and the columns.

    Args:
        sizes, first, last, image, samples: as in ``sampling.py``.
        grad_columns: flat, as columns; empty if ``grads`` are.
        grads: gradients of offset and mask, written; those that are empty are not.
        zero_boundary_grad: samples with a coordinate of -1 have no gradient.
        columns: written, unless they are empty.
        at: their positions and those of grad_columns.
    """
    cells = run_cells(sizes, at)
    runs = len(cells) // sizes.offset_groups
    taps = sizes.kernel_h * sizes.kernel_w
    block = new_block(image)
    nothing = filled(image.dtype.type(0))
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
                    flags, fy, fx = block.flags[k], block.frac_y[k], block.frac_x[k]
                    step = cell_step(sizes, position + k, tap)
                    if len(grads.offset) or len(grads.mask):
                        sums = (nothing, nothing, nothing, nothing)
                        for run in range(runs):
                            sums = add_dots(
                                sizes,
                                image,
                                block.pixel[k] + run * sizes.run,
                                flags & ALL_CORNERS,
                                grad_columns,
                                cells[og * runs + run] + step,
                                sums,
                            )
                        dots = lane_sums(sums)
                        mask = block.mask[k]
                        by_y, by_x, by_mask = gradients(
                            flags, fy, fx, mask, dots, zero_boundary_grad
                        )
                        if len(grads.offset):
                            grads.offset[to_y + k] = by_y
                            grads.offset[to_x + k] = by_x
                        if len(grads.mask):
                            grads.mask[to_mask + k] = by_mask
                    if len(columns):
                        for run in range(runs):
                            gather_run(
                                sizes,
                                image,
                                block.pixel[k] + run * sizes.run,
                                0 if flags & AT_MINUS_ONE else flags & ALL_CORNERS,
                                corner_weights(fy, fx),
                                block.mask[k],
                                columns,
                                cells[og * runs + run] + step,
                            )
        position += count
