"""The loop over samples of the backward: gradients of offset and mask, and the columns once more.

The gradients of offset and mask need no more than four numbers a sample, the *corner dots*: dot
products over channels of ``grad_columns`` and each corner. Names as in ``kernels/grads.cuh``.
"""

from __future__ import annotations

from typing import Any

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
    planes_at,
    pointers,
)
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    cell_step,
    corner_weights,
    counting_corners,
    first_cell,
    gather_run,
)
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_product,
    filled,
    lane_sum,
    load_vector,
    number,
    pointer_to,
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
def corner_dots(
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    grad_columns: Any,
    at: Any,
    channel: Any,
    position: Any,
    tap: Any,
) -> Any:
    """Dot products of ``grad_columns`` and the corners of a sample."""
    nothing = filled(number(image, 0))
    dots = nothing, nothing, nothing, nothing
    for c in range(0, sizes.channels // sizes.offset_groups, sizes.run):
        cell = first_cell(sizes, at, channel + c, position, tap)
        dots = add_dots(sizes, image, pixel + c, corners, grad_columns, cell, dots)
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
    has_offset, has_mask = len(grads.offset) > 0, len(grads.mask) > 0
    has_columns = len(columns) > 0
    image, samples, grads = pointer_to(image), pointers(samples), pointers(grads)
    grad_columns, columns = pointer_to(grad_columns), pointer_to(columns)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                channel = og * offset_channels
                if has_offset or has_mask:
                    y, x, m = planes_at(sizes, grads, n, position, tap, og)
                    for k in range(count):
                        dots = corner_dots(
                            sizes,
                            image,
                            block.pixels[k],
                            block.integers[FLAGS + k],
                            grad_columns,
                            at,
                            channel,
                            position + k,
                            tap,
                        )
                        by_y, by_x, by_mask = gradients(
                            block.integers[FLAGS + k],
                            block.numbers[FRAC_Y + k],
                            block.numbers[FRAC_X + k],
                            block.numbers[MASK + k],
                            dots,
                            zero_boundary_grad,
                        )
                        if has_offset:
                            grads.offset[y + k] = by_y
                            grads.offset[x + k] = by_x
                        if has_mask:
                            grads.mask[m + k] = by_mask
                if has_columns:
                    for c in range(0, offset_channels, sizes.run):
                        cell = first_cell(sizes, at, channel + c, position, tap)
                        for k in range(count):
                            gather_run(
                                sizes,
                                image,
                                block.pixels[k] + c,
                                counting_corners(block.integers[FLAGS + k]),
                                corner_weights(
                                    block.numbers[FRAC_Y + k], block.numbers[FRAC_X + k]
                                ),
                                block.numbers[MASK + k],
                                columns,
                                cell + k * cell_step(sizes),
                            )
        position += count
