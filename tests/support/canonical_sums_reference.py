"""The definition of sums of samples, as loops in float64 on arrays in canonical form.

See ``cudeform/sums_geometry.py`` for the form. ``reference_sums.py`` defines the operators in the
shapes that users pass, without this form. Results are in the order of ``Gradients`` and
``DoubleGradients`` without weight and bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import floor, isinf, isnan, nan
from typing import Any, NamedTuple

import numpy as np

from cudeform.sums_geometry import SumGeometry, Tap

Array = Any


class Corner(NamedTuple):
    """A corner in bounds: its pixel, its weight, derivatives of the weight by x, y and both."""

    pixel: tuple[int, int]
    weight: float
    by_x: float
    by_y: float
    by_both: float


class Sample(NamedTuple):
    """A sample: index of its position and group, of its mask, its corners and its factors."""

    cell: tuple[int, ...]
    index: tuple[int, ...]
    corners: list[Corner]
    factor: tuple[float, float]
    at_minus_one: bool
    nan_coord: bool


def samples(g: SumGeometry, offset: Array) -> Iterator[Sample]:
    """Every sample of a call."""
    for n, row, col, group in product(range(g.batch), *map(range, g.out), range(g.groups)):
        for at, tap in enumerate(g.tap_list):
            cell = (n, row, col, group)
            yield _sample(g, tap, cell, (*cell, at), (col, row), offset[(*cell, at)])


def _sample(
    g: SumGeometry, tap: Tap, cell: Any, index: Any, position: Any, offset: Array
) -> Sample:
    level = g.levels[tap.level]
    size = level.width, level.height
    lows, fracs = [], []
    for axis in range(2):
        displacement = tap.shift[axis] + tap.factor[axis] * float(offset[axis])
        if isnan(displacement) or isinf(displacement):
            lows.append(-2)
            fracs.append(0.0)
            continue
        lows.append(tap.base[axis] + g.stride[axis] * position[axis] + floor(displacement))
        fracs.append(displacement - floor(displacement))
    at_minus_one = any(low == -1 and frac == 0 for low, frac in zip(lows, fracs, strict=True))
    inside = all(-1 <= low < limit for low, limit in zip(lows, size, strict=True))
    corners = []
    for high_x, high_y in product((0, 1), (0, 1)) if inside else ():
        x, y = lows[0] + high_x, lows[1] + high_y
        if 0 <= x < size[0] and 0 <= y < size[1]:
            wx, wy = (f if high else 1 - f for f, high in zip(fracs, (high_x, high_y), strict=True))
            dx, dy = 2 * high_x - 1, 2 * high_y - 1
            pixel = (y, x) if g.grid else (level.first + y * level.width + x, 0)
            corners.append(Corner(pixel, wx * wy, dx * wy, wx * dy, dx * dy))
    nan_coord = any(isnan(float(each)) for each in offset)
    return Sample(cell, index, corners, tap.factor, inside and at_minus_one, nan_coord)


def forward(g: SumGeometry, input: Array, offset: Array, mask: Array) -> Array:
    input, offset, mask = (np.asarray(each, np.float64) for each in (input, offset, mask))
    output = np.zeros((g.batch, *g.out, g.groups, g.channels))
    for each in samples(g, offset):
        value = nan if each.nan_coord else np.zeros(g.channels)
        for corner in each.corners if not each.at_minus_one else ():
            value = value + corner.weight * input[(each.cell[0], *corner.pixel, each.cell[3])]
        output[each.cell] += mask[each.index] * value
    return output


def backward(
    g: SumGeometry, input: Array, offset: Array, mask: Array, grad_output: Array, zero: bool
) -> tuple[Array, Array, Array]:
    input, offset, mask, grad_output = (
        np.asarray(each, np.float64) for each in (input, offset, mask, grad_output)
    )
    by_input, by_offset, by_mask = map(np.zeros_like, (input, offset, mask))
    for each in samples(g, offset):
        if each.nan_coord:
            by_offset[each.index] = by_mask[each.index] = nan
            continue
        grad, flat = grad_output[each.cell], each.at_minus_one and zero
        for corner in each.corners:
            pixel = (each.cell[0], *corner.pixel, each.cell[3])
            dot = float(grad @ input[pixel])
            if not each.at_minus_one:
                if corner.weight:
                    by_input[pixel] += mask[each.index] * corner.weight * grad
                by_mask[each.index] += corner.weight * dot
            if not flat:
                slopes = np.array([corner.by_x, corner.by_y]) * each.factor
                by_offset[each.index] += mask[each.index] * slopes * dot
    return by_input, by_offset, by_mask


def jvp(
    g: SumGeometry, input: Array, offset: Array, mask: Array, tangents: Any, zero: bool
) -> Array:
    """``tangents``: of input, offset and mask."""
    v_input, v_offset, v_mask = tangents
    output = np.zeros((g.batch, *g.out, g.groups, g.channels))
    for each in samples(g, offset):
        along = np.array(each.factor) * v_offset[each.index]
        for corner in each.corners:
            pixel = (each.cell[0], *corner.pixel, each.cell[3])
            change = 0.0
            if not (each.at_minus_one and zero):
                change += mask[each.index] * (corner.by_x * along[0] + corner.by_y * along[1])
            if not each.at_minus_one:
                change += v_mask[each.index] * corner.weight
                output[each.cell] += mask[each.index] * corner.weight * v_input[pixel]
            output[each.cell] += change * input[pixel]
    return output
