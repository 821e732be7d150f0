"""The loop over samples of the double backward: gradients of offset and mask along tangents.

Arguments as in ``tangents.py``.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.arguments import plane_indices, pointers
from cudeform.cpu.loops.coordinates import (
    AT_MINUS_ONE,
    FLAGS,
    MASK,
    NAN_COORD,
    begin_block,
    fractions,
    locate,
    new_block,
)
from cudeform.cpu.loops.corners import mixed_derivative, slope_along, weighted_dots
from cudeform.cpu.loops.gradients import add_corners, load_dot
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import column_index
from cudeform.cpu.loops.tangents import any_tangent, tangents_at
from cudeform.cpu.loops.unrolled import item, over_axes, per_axis, per_corner, same_for
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    local_array,
    pointer_to,
    scalar_like,
    splat,
    store_lane_sums,
)

# Indices of the two kinds of corner dots of a sample, at most eight each, and their number.
DOTS, DOTS_TANGENT, ALL_DOTS = 0, 8, 16


@inlined
def add_dots(
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    grad_columns: Any,
    layout: Any,
    channel: Any,
    position: Any,
    tap: Any,
    dots: Any,
) -> Any:
    """Add the channels of a sample to its corner dots, lane by lane."""
    weights = per_corner(sizes.size, same_for, (scalar_like(image, 0),))
    for c in range(0, sizes.channels // sizes.offset_groups, sizes.run):
        column = column_index(sizes, layout, channel + c, position, tap)
        for v in range(0, sizes.run, VECTOR):
            count = min(VECTOR, sizes.run - v)
            grad = load_vector(grad_columns, column + v, count)
            dots, _ = add_corners(sizes, image, pixel + c + v, corners, weights, grad, dots, count)
    return dots


@inlined
def add_mixed_derivative(
    second: Any, total: Any, first: Any, fractions: Any, displacements: Any, dots: Any
) -> Any:
    """Add how the slope along ``first`` changes with the tangent of another displacement."""
    if second == first:
        return total
    return total + item(displacements, second) * mixed_derivative(first, second, fractions, dots)


@inlined
def second_along(
    axis: Any,
    fractions: Any,
    mask: Any,
    displacements: Any,
    mask_tangent: Any,
    dots: Any,
    dots_tangent: Any,
) -> Any:
    """Gradient of the displacement along an axis.

    The second derivatives of a multilinear function along a single axis are 0, so only the mixed
    ones remain: none in one dimension, one in two, three in three.
    """
    total = mask * slope_along(axis, fractions, dots_tangent) + mask_tangent * slope_along(
        axis, fractions, dots
    )
    arguments = axis, fractions, displacements, dots
    zero = type(mask)(0)
    return total + mask * over_axes(fractions, add_mixed_derivative, zero, arguments)


@inlined
def add_slope_along(axis: Any, total: Any, fractions: Any, displacements: Any, dots: Any) -> Any:
    """Add the slope along an axis times the tangent of the displacement along it."""
    return total + item(displacements, axis) * slope_along(axis, fractions, dots)


@inlined
def second_gradients(
    flags: Any,
    fractions: Any,
    mask: Any,
    tangents: Any,
    dots: Any,
    dots_tangent: Any,
    zero_boundary_grad: Any,
) -> Any:
    """Gradients of displacements and mask from the two kinds of corner dots.

    See :func:`sample_seconds`.
    """
    zero = type(mask)(0)
    displacements, mask_tangent = tangents
    by_offset, by_mask = per_axis(fractions, same_for, (zero,)), zero
    if flags & NAN_COORD:
        return per_axis(fractions, same_for, (mask,)), mask
    if not (flags & AT_MINUS_ONE and zero_boundary_grad):
        arguments = fractions, mask, displacements, mask_tangent, dots, dots_tangent
        by_offset = per_axis(fractions, second_along, arguments)
        by_mask = over_axes(fractions, add_slope_along, zero, (fractions, displacements, dots))
    if not flags & AT_MINUS_ONE:
        by_mask += weighted_dots(fractions, dots_tangent)
    return by_offset, by_mask


@inlined
def store_second(axis: Any, offset: Any, first: Any, k: Any, values: Any) -> None:
    """Write the gradient of a displacement along an axis."""
    offset[item(first, axis) + k] = item(values, axis)


@loop
def second_sample_gradients(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    image_tangent: Any,
    samples: Any,
    tangents: Any,
    grad_columns: Any,
    tangent_grad_columns: Any,
    layout: Any,
    grads: Any,
    zero_boundary_grad: Any,
) -> None:
    """Gradients of offset and mask of ``sum(c * column_tangents + o * columns)``.

    ``c`` is the product of grad_output and the weight, ``o`` the product of grad_output and the
    tangent of the weight. The gradients follow from two kinds of corner dots, ``dots = c.x`` and
    ``dots_tangent = c.v + o.x``, with the pixels ``x`` and their tangents ``v``.

    Args:
        sizes, first, last, image, samples, layout: as in ``sampling.py``.
        image_tangent: tangent of the image; empty if it is 0.
        tangents: tangents of the samples; empty if they are 0.
        grad_columns: ``c``, with the layout of columns.
        tangent_grad_columns: ``o``, with the layout of columns; empty if it is 0.
        grads: gradients of offset and mask, written unless they are empty.
        zero_boundary_grad: whether the offset's gradient is 0 at a coordinate of exactly -1.
    """
    has_sample_tangents, has_image_tangent = any_tangent(tangents), len(image_tangent) > 0
    has_weight_tangent = len(tangent_grad_columns) > 0
    has_offset, has_mask = len(grads.offset) > 0, len(grads.mask) > 0
    image, image_tangent = pointer_to(image), pointer_to(image_tangent)
    samples, tangents, grads = pointers(samples), pointers(tangents), pointers(grads)
    grad_columns = pointer_to(grad_columns)
    tangent_grad_columns = pointer_to(tangent_grad_columns)
    zeros = per_corner(sizes.size, same_for, (splat(scalar_like(image, 0)),))
    block, sums = new_block(image), local_array(ALL_DOTS, scalar_like(image, 0))
    position = first
    while position < last:
        n, count = begin_block(sizes, block, position, last)
        for tap in range(sizes.taps):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                channel = og * (sizes.channels // sizes.offset_groups)
                offset_indices, mask_index = plane_indices(sizes, grads, n, position, tap, og)
                for k in range(count):
                    flags, pixel = block.integers[FLAGS + k], block.pixels[k]
                    sample = layout, channel, position + k, tap
                    dots, dots_tangent = zeros, zeros
                    if has_sample_tangents:
                        dots = add_dots(sizes, image, pixel, flags, grad_columns, *sample, dots)
                    if has_image_tangent:
                        dots_tangent = add_dots(
                            sizes,
                            image_tangent,
                            pixel,
                            flags,
                            grad_columns,
                            *sample,
                            dots_tangent,
                        )
                    if has_weight_tangent:
                        dots_tangent = add_dots(
                            sizes,
                            image,
                            pixel,
                            flags,
                            tangent_grad_columns,
                            *sample,
                            dots_tangent,
                        )
                    store_lane_sums(sums, DOTS, dots)
                    store_lane_sums(sums, DOTS_TANGENT, dots_tangent)
                    by_offset, by_mask = second_gradients(
                        flags,
                        fractions(sizes, block, k),
                        block.numbers[MASK + k],
                        tangents_at(sizes, tangents, n, position + k, tap, og),
                        per_corner(sizes.size, load_dot, (sums, DOTS)),
                        per_corner(sizes.size, load_dot, (sums, DOTS_TANGENT)),
                        zero_boundary_grad,
                    )
                    if has_offset:
                        per_axis(
                            sizes.size, store_second, (grads.offset, offset_indices, k, by_offset)
                        )
                    if has_mask:
                        grads.mask[mask_index + k] = by_mask
        position += count
