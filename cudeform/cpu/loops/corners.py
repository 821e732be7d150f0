"""The multilinear interpolation between the corners of a sample, and its derivatives.

``fractions`` has one item per axis, ``dots`` one per corner, see ``unrolled.py``. Along an axis,
the weight of a corner is ``frac`` if it is the high corner, else ``1 - frac``. The weight of a
corner is the product of its weights along the axes.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.unrolled import (
    corner_bit,
    item,
    over_axes,
    over_corners,
    per_axis,
    per_corner,
)


@inlined
def axis_weight(axis: Any, weight: Any, corner: Any, fractions: Any) -> Any:
    """Multiply the weight of a corner by its weight along an axis."""
    frac = item(fractions, axis)
    along = frac if corner & corner_bit(fractions, axis) else type(frac)(1) - frac
    return along if axis == 0 else weight * along


@inlined
def corner_weight(corner: Any, fractions: Any) -> Any:
    """The multilinear weight of a corner."""
    one = type(fractions[0])(1)
    return over_axes(fractions, axis_weight, one, (corner, fractions))


@inlined
def corner_weights(fractions: Any) -> Any:
    """The multilinear weights of all corners."""
    return per_corner(fractions, corner_weight, (fractions,))


@inlined
def add_weighted_dot(corner: Any, value: Any, fractions: Any, dots: Any) -> Any:
    """Add the value at a corner times its weight."""
    return value + corner_weight(corner, fractions) * item(dots, corner)


@inlined
def weighted_dots(fractions: Any, dots: Any) -> Any:
    """Interpolate between the values at the corners."""
    zero = type(fractions[0])(0)
    return over_corners(fractions, add_weighted_dot, zero, (fractions, dots))


@inlined
def axis_weight_elsewhere(
    axis: Any, weight: Any, corner: Any, fractions: Any, first: Any, second: Any
) -> Any:
    """Multiply by the weight of a corner along an axis, unless it is ``first`` or ``second``."""
    if axis in (first, second):
        return weight
    frac = item(fractions, axis)
    return weight * (frac if corner & corner_bit(fractions, axis) else type(frac)(1) - frac)


@inlined
def weight_without_axes(corner: Any, fractions: Any, first: Any, second: Any) -> Any:
    """The weight of a corner, without the factors of one or two axes."""
    one = type(fractions[0])(1)
    return over_axes(fractions, axis_weight_elsewhere, one, (corner, fractions, first, second))


@inlined
def add_slope(step: Any, slope: Any, axis: Any, fractions: Any, dots: Any) -> Any:
    """Add the difference between a pair of corners to the derivative along an axis."""
    corner, bit = len(dots) - 1 - step, corner_bit(fractions, axis)
    if not corner & bit:
        return slope
    difference = item(dots, corner) - item(dots, corner ^ bit)
    return slope + weight_without_axes(corner, fractions, axis, axis) * difference


@inlined
def slope_along(axis: Any, fractions: Any, dots: Any) -> Any:
    """Derivative along an axis of the interpolation between the values at the corners."""
    zero = type(fractions[0])(0)
    return over_corners(fractions, add_slope, zero, (axis, fractions, dots))


@inlined
def slopes(fractions: Any, dots: Any) -> Any:
    """Derivatives along all axes of the interpolation between the values at the corners."""
    return per_axis(fractions, slope_along, (fractions, dots))


@inlined
def add_mixed_difference(
    corner: Any, derivative: Any, first: Any, second: Any, fractions: Any, dots: Any
) -> Any:
    """Add a corner to the mixed second derivative along two axes."""
    term = weight_without_axes(corner, fractions, first, second) * item(dots, corner)
    high_first = (corner & corner_bit(fractions, first)) != 0
    high_second = (corner & corner_bit(fractions, second)) != 0
    return derivative + term if high_first == high_second else derivative - term


@inlined
def mixed_derivative(first: Any, second: Any, fractions: Any, dots: Any) -> Any:
    """Mixed second derivative, along two axes, of the same interpolation."""
    zero = type(fractions[0])(0)
    return over_corners(fractions, add_mixed_difference, zero, (first, second, fractions, dots))
