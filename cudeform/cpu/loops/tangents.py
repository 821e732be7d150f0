"""The loops over samples of forward mode and second order.

With ``w`` the bilinear weights of a sample, ``w'`` their slopes, ``m`` its mask and ``x`` the
pixels at its corners, the tangent of a column along tangents ``v`` of its operands is

    sum_j t_j x_j + sum_j m w_j v_x,j    where  t = v_m w + m (v_dy w'_y + v_dx w'_x).

Arguments are those of ``sampling.py``, and ``tangents``: those of offset and mask, as ``samples``;
empty where they are 0. Names as in ``kernels/sampling/sample_tangent.cuh``.
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
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    cell_step,
    corner_weights,
    counting_corners,
    first_cell,
    weighted_corners,
)
from cudeform.cpu.loops.scatter import corners_that_gain, scatter_run
from cudeform.cpu.loops.vectors import (
    VECTOR,
    filled,
    number,
    pointer_to,
    store_vector,
)


@inlined
def tangents_at(sizes: Any, tangents: Any, n: Any, position: Any, tap: Any, og: Any) -> Any:
    """Tangents of dy, dx and mask of a sample."""
    zero = number(tangents.offset, 0)
    dy, dx, mask = zero, zero, zero
    y, x, m = planes_at(sizes, tangents, n, position, tap, og)
    if tangents.offset_planes.channel:
        dy, dx = tangents.offset[y], tangents.offset[x]
    if tangents.mask_planes.channel:
        mask = tangents.mask[m]
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
    corners = counting_corners(flags)
    a, b, c, d = corner_weights(fy, fx)
    return (
        a * mask if corners & 1 else zero,
        b * mask if corners & 2 else zero,
        c * mask if corners & 4 else zero,
        d * mask if corners & 8 else zero,
    )


@inlined
def change(tangents: Any) -> Any:
    """Whether the weights of the corners change."""
    return tangents.offset_planes.channel != 0 or tangents.mask_planes.channel != 0


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
    weights_change, image_changes = change(tangents), len(image_tangent) > 0
    image, image_tangent = pointer_to(image), pointer_to(image_tangent)
    samples, tangents, columns = pointers(samples), pointers(tangents), pointer_to(columns)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(0, offset_channels, sizes.run):
                    cell = first_cell(sizes, at, og * offset_channels + c, position, tap)
                    for k in range(count):
                        flags, mask = block.integers[FLAGS + k], block.numbers[MASK + k]
                        fy, fx = block.numbers[FRAC_Y + k], block.numbers[FRAC_X + k]
                        along = tangents_at(sizes, tangents, n, position + k, tap, og)
                        turn = weight_tangents(flags, fy, fx, mask, along, zero_boundary_grad)
                        weights = masked_weights(flags, fy, fx, mask)
                        for v in range(0, sizes.run, VECTOR):
                            width = min(VECTOR, sizes.run - v)
                            pixel = block.pixels[k] + c + v
                            value = filled(mask if flags & NAN_COORD else number(image, 0))
                            if weights_change:
                                value = weighted_corners(
                                    sizes, image, pixel, flags, turn, width, value
                                )
                            if image_changes:
                                value = weighted_corners(
                                    sizes, image_tangent, pixel, flags, weights, width, value
                                )
                            store_vector(columns, cell + k * cell_step(sizes) + v, width, value)
        position += count


@loop
def scatter_tangents(
    sizes: Any,
    first: Any,
    last: Any,
    first_channel: Any,
    last_channel: Any,
    samples: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    grad_columns: Any,
    at: Any,
    grad_image: Any,
) -> None:
    """As ``sampling.scatter``, with the changes of the corners' weights in their place."""
    grad_image, grad_columns = pointer_to(grad_image), pointer_to(grad_columns)
    samples, tangents = pointers(samples), pointers(tangents)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(grad_image)
    position = first
    while position < last:
        n, count = block_at(sizes, block, position, last)
        for tap in range(sizes.kernel_h * sizes.kernel_w):
            for og in range(first_channel // offset_channels, sizes.offset_groups):
                channel = og * offset_channels
                begin = max(0, first_channel - channel)
                end = min(offset_channels, last_channel - channel)
                if begin >= end:
                    break
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(begin, end, sizes.run):
                    cell = first_cell(sizes, at, channel + c, position, tap)
                    for k in range(count):
                        turn = weight_tangents(
                            block.integers[FLAGS + k],
                            block.numbers[FRAC_Y + k],
                            block.numbers[FRAC_X + k],
                            block.numbers[MASK + k],
                            tangents_at(sizes, tangents, n, position + k, tap, og),
                            zero_boundary_grad,
                        )
                        scatter_run(
                            sizes,
                            grad_image,
                            block.pixels[k] + c,
                            corners_that_gain(block.integers[FLAGS + k], turn),
                            turn,
                            grad_columns,
                            cell + k * cell_step(sizes),
                        )
        position += count
