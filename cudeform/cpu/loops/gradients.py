"""The loop over samples of the backward: gradients of offset and mask, and the columns once more.

The gradients of offset and mask need no more than four numbers a sample, the *corner dots*: dot
products over channels of ``grad_columns`` and each corner. Names as in
``kernels/sampling/offset_mask_grads.cuh``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cudeform.cpu.loops.arguments import planes_at, pointers
from cudeform.cpu.loops.coordinates import (
    ALL_CORNERS,
    AT_MINUS_ONE,
    BLOCK,
    FLAGS,
    FRAC_X,
    FRAC_Y,
    MASK,
    NAN_COORD,
    block_at,
    locate,
    new_block,
)
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    cell_step,
    corner_weights,
    first_cell,
    run_step,
)
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_product,
    add_scaled,
    filled,
    load_vector,
    number,
    pointer_to,
    room_for,
    scaled,
    store_lane_sums,
    store_vector,
)

int32 = np.int32


@inlined
def add_corner(
    image: Any, pixel: Any, weight: Any, grad: Any, dot: Any, value: Any, count: Any
) -> Any:
    """Add a corner to its dot and to the value of the sample, lane by lane."""
    corner = load_vector(image, pixel, count)
    return add_product(dot, grad, corner), add_scaled(value, weight, corner)


@inlined
def add_corners(
    sizes: Any, image: Any, pixel: Any, corners: Any, weights: Any, grad: Any, dots: Any, count: Any
) -> Any:
    """Add ``count`` channels of the corners in bounds to their dots.

    Returns:
        The dots, and the value of the sample at these channels, mask left out.
    """
    col, row = sizes.channels, sizes.in_w * sizes.channels
    a, b, c, d = dots
    value = filled(number(image, 0))
    if corners & 1:
        a, value = add_corner(image, pixel, weights[0], grad, a, value, count)
    if corners & 2:
        b, value = add_corner(image, pixel + col, weights[1], grad, b, value, count)
    if corners & 4:
        c, value = add_corner(image, pixel + row, weights[2], grad, c, value, count)
    if corners & 8:
        d, value = add_corner(image, pixel + row + col, weights[3], grad, d, value, count)
    return (a, b, c, d), value


@inlined
def add_run(
    sizes: Any,
    image: Any,
    pixel: Any,
    flags: Any,
    weights: Any,
    mask: Any,
    grad_columns: Any,
    grad_cell: Any,
    dots: Any,
    columns: Any,
    cell: Any,
    has_columns: Any,
) -> Any:
    """Add a run of channels to the corner dots, lane by lane, and write it into the columns."""
    corners, rest = flags & ALL_CORNERS, sizes.run % VECTOR
    whole = sizes.run - rest
    if corners == ALL_CORNERS:
        for c in range(0, whole, VECTOR):
            grad = load_vector(grad_columns, grad_cell + c, VECTOR)
            dots, value = add_corners(
                sizes, image, pixel + c, ALL_CORNERS, weights, grad, dots, VECTOR
            )
            if has_columns:
                store_vector(columns, cell + c, VECTOR, scaled(mask, value))
        first = whole
    else:
        first = 0
    for c in range(first, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        grad = load_vector(grad_columns, grad_cell + c, count)
        dots, value = add_corners(sizes, image, pixel + c, corners, weights, grad, dots, count)
        if has_columns:
            # At a coordinate of -1 the sample is 0, whatever its corners are.
            value = filled(number(image, 0)) if flags & AT_MINUS_ONE else value
            store_vector(columns, cell + c, count, scaled(mask, value))
    return dots


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


DOTS, GRAD_Y, GRAD_X, GRAD_MASK, GRADIENTS = (row * BLOCK for row in (0, 4, 5, 6, 7))


@inlined
def set_gradients(block: Any, gradients: Any, zero_boundary_grad: Any) -> None:
    """Gradients of dy, dx and mask of the samples of a block, from their corner dots."""
    zero = number(gradients, 0)
    for k in range(BLOCK):
        flags, mask = block.integers[FLAGS + k], block.numbers[MASK + k]
        fy, fx = block.numbers[FRAC_Y + k], block.numbers[FRAC_X + k]
        dot = DOTS + 4 * k
        dots = gradients[dot], gradients[dot + 1], gradients[dot + 2], gradients[dot + 3]
        slope_y, slope_x = slopes(fy, fx, dots)
        value = weighted_dots(corner_weights(fy, fx), dots)
        edge = (flags & int32(AT_MINUS_ONE)) != 0
        flat = edge & zero_boundary_grad
        value = zero if edge else value
        gradients[GRAD_Y + k] = mask * (zero if flat else slope_y)
        gradients[GRAD_X + k] = mask * (zero if flat else slope_x)
        # Where a coordinate is NaN, so is the mask.
        gradients[GRAD_MASK + k] = mask if flags & int32(NAN_COORD) else value


@inlined
def store_row(gradients: Any, row: Any, array: Any, first: Any, count: Any) -> None:
    """Write a row of a block's gradients into an array."""
    for k in range(0, count, VECTOR):
        value = load_vector(gradients, row + k, VECTOR)
        store_vector(array, first + k, min(VECTOR, count - k), value)


@loop
def sample_gradients(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    samples: Any,
    grad_columns: Any,
    grad_at: Any,
    grads: Any,
    zero_boundary_grad: Any,
    columns: Any,
    at: Any,
) -> None:
    """Gradients of offset and mask, and the columns.

    Args:
        sizes, first, last, image, samples: as in ``sampling.py``.
        grad_columns: flat, as columns.
        grad_at: their positions.
        grads: gradients of offset and mask, written; those that are empty are not.
        zero_boundary_grad: samples with a coordinate of -1 have no gradient of the offset.
        columns: written, unless they are empty.
        at: their positions.
    """
    has_offset, has_mask = len(grads.offset) > 0, len(grads.mask) > 0
    has_columns = len(columns) > 0
    image, samples, grads = pointer_to(image), pointers(samples), pointers(grads)
    grad_columns, columns = pointer_to(grad_columns), pointer_to(columns)
    offset_channels = sizes.channels // sizes.offset_groups
    nothing = filled(number(image, 0))
    block, gradients = new_block(image), room_for(GRADIENTS, number(image, 0))
    for k in range(GRADIENTS):
        gradients[k] = number(image, 0)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                channel = og * offset_channels
                grad_cell = first_cell(sizes, grad_at, channel, position, tap)
                cell = first_cell(sizes, at, channel, position, tap)
                for k in range(count):
                    step = k * cell_step(sizes)
                    dots = nothing, nothing, nothing, nothing
                    for c in range(0, offset_channels, sizes.run):
                        dots = add_run(
                            sizes,
                            image,
                            block.pixels[k] + c,
                            block.integers[FLAGS + k],
                            corner_weights(block.numbers[FRAC_Y + k], block.numbers[FRAC_X + k]),
                            block.numbers[MASK + k],
                            grad_columns,
                            grad_cell + run_step(sizes, grad_at, channel, c) + step,
                            dots,
                            columns,
                            cell + run_step(sizes, at, channel, c) + step,
                            has_columns,
                        )
                    store_lane_sums(gradients, DOTS + 4 * k, dots)
                set_gradients(block, gradients, zero_boundary_grad)
                y, x, m = planes_at(sizes, grads, n, position, tap, og)
                if has_offset:
                    store_row(gradients, GRAD_Y, grads.offset, y, count)
                    store_row(gradients, GRAD_X, grads.offset, x, count)
                if has_mask:
                    store_row(gradients, GRAD_MASK, grads.mask, m, count)
        position += count
