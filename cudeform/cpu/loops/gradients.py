"""The loop over samples of the backward: gradients of offset and mask, and the columns.

The gradients of offset and mask follow from the *corner dots* of a sample, one number per corner:
the dot product over channels of ``grad_columns`` and the pixel at the corner. Names as in
``kernels/sampling/offset_mask_grads.cuh``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cudeform.cpu.loops.arguments import plane_indices, pointers
from cudeform.cpu.loops.coordinates import (
    AT_MINUS_ONE,
    BLOCK,
    FLAGS,
    MASK,
    NAN_COORD,
    begin_block,
    fractions,
    locate,
    new_block,
)
from cudeform.cpu.loops.corners import corner_weights, slopes, weighted_dots
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import channel_step, column_index, corner_step, position_step
from cudeform.cpu.loops.unrolled import (
    all_corners,
    item,
    over_corners,
    per_axis,
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
    scaled,
    splat,
    store_lane_sums,
    store_vector,
)

int32 = np.int32


@inlined
def add_corner(
    corner: Any,
    sums: Any,
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    weights: Any,
    grad: Any,
    count: Any,
) -> Any:
    """Add a corner to its dot and to the value of the sample, lane by lane, if it is in bounds."""
    dots, value = sums
    if corners & (1 << corner):
        pixels = load_vector(image, pixel + corner_step(corner, sizes), count)
        dots = with_item(dots, corner, add_product(item(dots, corner), grad, pixels))
        value = add_scaled(value, item(weights, corner), pixels)
    return dots, value


@inlined
def add_corners(
    sizes: Any, image: Any, pixel: Any, corners: Any, weights: Any, grad: Any, dots: Any, count: Any
) -> Any:
    """Add ``count`` channels of the corners in bounds to their dots.

    Returns:
        The dots, and the value of the sample at these channels without the mask.
    """
    sums = dots, splat(scalar_like(image, 0))
    arguments = sizes, image, pixel, corners, weights, grad, count
    return over_corners(sizes.size, add_corner, sums, arguments)


@inlined
def add_run(
    sizes: Any,
    image: Any,
    pixel: Any,
    flags: Any,
    weights: Any,
    mask: Any,
    grad_columns: Any,
    grad_column: Any,
    dots: Any,
    columns: Any,
    column: Any,
    has_columns: Any,
) -> Any:
    """Add a run of channels to the corner dots, lane by lane, and write it to the columns."""
    every = all_corners(sizes.size)
    corners, whole = flags & every, sizes.run - sizes.run % VECTOR
    if corners == every:
        for c in range(0, whole, VECTOR):
            grad = load_vector(grad_columns, grad_column + c, VECTOR)
            dots, value = add_corners(sizes, image, pixel + c, every, weights, grad, dots, VECTOR)
            if has_columns:
                store_vector(columns, column + c, VECTOR, scaled(mask, value))
        first = whole
    else:
        first = 0
    for c in range(first, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        grad = load_vector(grad_columns, grad_column + c, count)
        dots, value = add_corners(sizes, image, pixel + c, corners, weights, grad, dots, count)
        if has_columns:
            # At a coordinate of -1 the sample is 0 for any values at its corners.
            value = splat(scalar_like(image, 0)) if flags & AT_MINUS_ONE else value
            store_vector(columns, column + c, count, scaled(mask, value))
    return dots


# Rows of BLOCK elements: one, three (axes) and eight (corners). The dots of a sample are adjacent.
GRAD_MASK, GRAD_OFFSET, DOTS, GRADIENTS = (row * BLOCK for row in (0, 1, 4, 12))


@inlined
def dots_at(sizes: Any, k: Any) -> Any:
    """Index of the corner dots of sample ``k`` of a block."""
    return DOTS + (k << len(sizes.size))


@inlined
def load_dot(corner: Any, pointer: Any, first: Any) -> Any:
    """The dot of a corner."""
    return pointer[first + corner]


@inlined
def set_gradient(axis: Any, gradients: Any, k: Any, mask: Any, flat: Any, slopes: Any) -> None:
    """Write the gradient of the displacement of sample ``k`` along an axis."""
    slope = type(mask)(0) if flat else item(slopes, axis)
    gradients[GRAD_OFFSET + axis * BLOCK + k] = mask * slope


@inlined
def set_gradients(sizes: Any, block: Any, gradients: Any, zero_boundary_grad: Any) -> None:
    """Compute the gradients of offset and mask of a block from its corner dots."""
    zero = scalar_like(gradients, 0)
    for k in range(BLOCK):
        flags, mask = block.integers[FLAGS + k], block.numbers[MASK + k]
        frac = fractions(sizes, block, k)
        dots = per_corner(sizes.size, load_dot, (gradients, dots_at(sizes, k)))
        at_minus_one = (flags & int32(AT_MINUS_ONE)) != 0
        flat = at_minus_one & zero_boundary_grad
        per_axis(sizes.size, set_gradient, (gradients, k, mask, flat, slopes(frac, dots)))
        value = zero if at_minus_one else weighted_dots(frac, dots)
        # If a coordinate is NaN, the mask of the block is NaN too.
        gradients[GRAD_MASK + k] = mask if flags & int32(NAN_COORD) else value


@inlined
def store_row(gradients: Any, row: Any, array: Any, first: Any, count: Any) -> None:
    """Copy a row of a block's gradients to an array."""
    for k in range(0, count, VECTOR):
        value = load_vector(gradients, row + k, VECTOR)
        store_vector(array, first + k, min(VECTOR, count - k), value)


@inlined
def store_offset_row(axis: Any, gradients: Any, offset: Any, first: Any, count: Any) -> None:
    """Copy the gradients of a block's displacements along an axis to an array."""
    store_row(gradients, GRAD_OFFSET + axis * BLOCK, offset, item(first, axis), count)


@loop
def sample_gradients(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    samples: Any,
    grad_columns: Any,
    grad_layout: Any,
    grads: Any,
    zero_boundary_grad: Any,
    columns: Any,
    layout: Any,
) -> None:
    """Compute the gradients of offset and mask, and the columns.

    Args:
        sizes, first, last, image, samples: as in ``sampling.py``.
        grad_columns: gradient of the columns, flat.
        grad_layout: positions of ``grad_columns``.
        grads: gradients of offset and mask, written unless they are empty.
        zero_boundary_grad: whether the offset's gradient is 0 at a coordinate of exactly -1.
        columns: the columns, written unless they are empty.
        layout: positions of ``columns``.
    """
    has_offset, has_mask = len(grads.offset) > 0, len(grads.mask) > 0
    has_columns = len(columns) > 0
    image, samples, grads = pointer_to(image), pointers(samples), pointers(grads)
    grad_columns, columns = pointer_to(grad_columns), pointer_to(columns)
    offset_channels = sizes.channels // sizes.offset_groups
    zero = splat(scalar_like(image, 0))
    block, gradients = new_block(image), local_array(GRADIENTS, scalar_like(image, 0))
    for k in range(GRADIENTS):
        gradients[k] = scalar_like(image, 0)
    position = first
    while position < last:
        n, count = begin_block(sizes, block, position, last)
        for tap in range(sizes.taps):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                channel = og * offset_channels
                grad_column = column_index(sizes, grad_layout, channel, position, tap)
                column = column_index(sizes, layout, channel, position, tap)
                for k in range(count):
                    step = k * position_step(sizes)
                    dots = per_corner(sizes.size, same_for, (zero,))
                    for c in range(0, offset_channels, sizes.run):
                        dots = add_run(
                            sizes,
                            image,
                            block.pixels[k] + c,
                            block.integers[FLAGS + k],
                            corner_weights(fractions(sizes, block, k)),
                            block.numbers[MASK + k],
                            grad_columns,
                            grad_column + channel_step(sizes, grad_layout, channel, c) + step,
                            dots,
                            columns,
                            column + channel_step(sizes, layout, channel, c) + step,
                            has_columns,
                        )
                    store_lane_sums(gradients, dots_at(sizes, k), dots)
                set_gradients(sizes, block, gradients, zero_boundary_grad)
                offset_indices, mask_index = plane_indices(sizes, grads, n, position, tap, og)
                if has_offset:
                    row = gradients, grads.offset, offset_indices, count
                    per_axis(sizes.size, store_offset_row, row)
                if has_mask:
                    store_row(gradients, GRAD_MASK, grads.mask, mask_index, count)
        position += count
