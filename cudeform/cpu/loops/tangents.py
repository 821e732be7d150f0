"""The loops over samples of forward mode and of the double backward.

With ``w`` the multilinear weights of a sample, ``w'`` their slopes, ``m`` its mask and ``x`` the
pixels at its corners, the tangent of a column along the tangents ``v`` of its operands is

    sum_j t_j x_j + sum_j m w_j v_x,j    where  t = v_m w + m sum_a v_a w'_a

where ``j`` is a corner and ``a`` an axis of the displacement.

Arguments as in ``sampling.py``. ``tangents`` are those of offset and mask, with the form of
``samples``; a tangent that is empty is 0. Names as in ``kernels/sampling/sample_tangent.cuh``.
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
from cudeform.cpu.loops.corners import corner_weight, weight_without_axes
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    column_index,
    contributing_corners,
    position_step,
    weighted_corners,
)
from cudeform.cpu.loops.scatter import corners_receiving_grad, scatter_run
from cudeform.cpu.loops.unrolled import corner_bit, item, over_axes, per_axis, per_corner
from cudeform.cpu.loops.vectors import (
    VECTOR,
    pointer_to,
    scalar_like,
    splat,
    store_vector,
)


@inlined
def tangent_along(axis: Any, tangents: Any, offset_indices: Any) -> Any:
    """Tangent of the displacement of a sample along an axis."""
    if tangents.offset_planes.channel:
        return tangents.offset[item(offset_indices, axis)]
    return scalar_like(tangents.offset, 0)


@inlined
def tangents_at(sizes: Any, tangents: Any, n: Any, position: Any, tap: Any, og: Any) -> Any:
    """Tangents of the displacements of a sample, one per axis, and of its mask."""
    offset_indices, mask_index = plane_indices(sizes, tangents, n, position, tap, og)
    mask = scalar_like(tangents.offset, 0)
    if tangents.mask_planes.channel:
        mask = tangents.mask[mask_index]
    return per_axis(sizes.size, tangent_along, (tangents, offset_indices)), mask


@inlined
def add_along_offset(
    axis: Any, tangent: Any, corner: Any, fractions: Any, slope: Any, displacements: Any
) -> Any:
    """Add how the weight of a corner changes with the displacement along an axis."""
    size = slope * weight_without_axes(corner, fractions, axis, axis) * item(displacements, axis)
    return tangent + size if corner & corner_bit(fractions, axis) else tangent - size


@inlined
def weight_tangent(
    corner: Any, flags: Any, fractions: Any, slope: Any, displacements: Any, value: Any
) -> Any:
    """Tangent of the weight of a corner, mask included; 0 if the corner is out of bounds."""
    if not flags & (1 << corner):
        return type(value)(0)
    tangent = value * corner_weight(corner, fractions)
    arguments = corner, fractions, slope, displacements
    return over_axes(fractions, add_along_offset, tangent, arguments)


@inlined
def weight_tangents(
    flags: Any, fractions: Any, mask: Any, tangents: Any, zero_boundary_grad: Any
) -> Any:
    """Tangents of the weights of all corners, mask included.

    At a coordinate of exactly -1 the sample is 0 for any mask. Whether it changes with the offset
    is a convention, the option boundary_grad.
    """
    zero = type(mask)(0)
    displacements, value = tangents
    slope = mask
    if flags & AT_MINUS_ONE:
        value = zero
        slope = zero if zero_boundary_grad else mask
    arguments = flags, fractions, slope, displacements, value
    return per_corner(fractions, weight_tangent, arguments)


@inlined
def masked_weight(corner: Any, corners: Any, fractions: Any, mask: Any) -> Any:
    """Weight of a corner, mask included; 0 if the corner is not in ``corners``."""
    if corners & (1 << corner):
        return corner_weight(corner, fractions) * mask
    return type(mask)(0)


@inlined
def masked_weights(sizes: Any, flags: Any, fractions: Any, mask: Any) -> Any:
    """Weights of all corners, mask included; 0 for a corner that does not contribute."""
    corners = contributing_corners(sizes, flags)
    return per_corner(fractions, masked_weight, (corners, fractions, mask))


@inlined
def any_tangent(tangents: Any) -> Any:
    """Whether offset or mask has a tangent."""
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
    layout: Any,
) -> None:
    """Write the tangent of the columns; ``image_tangent`` is empty if it is 0."""
    has_sample_tangents, has_image_tangent = any_tangent(tangents), len(image_tangent) > 0
    image, image_tangent = pointer_to(image), pointer_to(image_tangent)
    samples, tangents, columns = pointers(samples), pointers(tangents), pointer_to(columns)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(image)
    position = first
    while position < last:
        n, count = begin_block(sizes, block, position, last)
        for tap in range(sizes.taps):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(0, offset_channels, sizes.run):
                    column = column_index(sizes, layout, og * offset_channels + c, position, tap)
                    for k in range(count):
                        flags, mask = block.integers[FLAGS + k], block.numbers[MASK + k]
                        frac = fractions(sizes, block, k)
                        along = tangents_at(sizes, tangents, n, position + k, tap, og)
                        tangent_weights = weight_tangents(
                            flags, frac, mask, along, zero_boundary_grad
                        )
                        weights = masked_weights(sizes, flags, frac, mask)
                        for v in range(0, sizes.run, VECTOR):
                            width = min(VECTOR, sizes.run - v)
                            pixel = block.pixels[k] + c + v
                            value = splat(mask if flags & NAN_COORD else scalar_like(image, 0))
                            if has_sample_tangents:
                                value = weighted_corners(
                                    sizes, image, pixel, flags, tangent_weights, width, value
                                )
                            if has_image_tangent:
                                value = weighted_corners(
                                    sizes, image_tangent, pixel, flags, weights, width, value
                                )
                            store_vector(
                                columns, column + k * position_step(sizes) + v, width, value
                            )
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
    layout: Any,
    grad_image: Any,
) -> None:
    """As ``scatter.scatter``, with the tangents of the corner weights in place of the weights."""
    grad_image, grad_columns = pointer_to(grad_image), pointer_to(grad_columns)
    samples, tangents = pointers(samples), pointers(tangents)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(grad_image)
    position = first
    while position < last:
        n, count = begin_block(sizes, block, position, last)
        for tap in range(sizes.taps):
            for og in range(first_channel // offset_channels, sizes.offset_groups):
                channel = og * offset_channels
                begin = max(0, first_channel - channel)
                end = min(offset_channels, last_channel - channel)
                if begin >= end:
                    break
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(begin, end, sizes.run):
                    column = column_index(sizes, layout, channel + c, position, tap)
                    for k in range(count):
                        tangent_weights = weight_tangents(
                            block.integers[FLAGS + k],
                            fractions(sizes, block, k),
                            block.numbers[MASK + k],
                            tangents_at(sizes, tangents, n, position + k, tap, og),
                            zero_boundary_grad,
                        )
                        scatter_run(
                            sizes,
                            grad_image,
                            block.pixels[k] + c,
                            corners_receiving_grad(
                                sizes, block.integers[FLAGS + k], tangent_weights
                            ),
                            tangent_weights,
                            grad_columns,
                            column + k * position_step(sizes),
                        )
        position += count
