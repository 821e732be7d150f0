"""The arguments of the loops over samples that are summed: sizes, tables of taps, layouts.

Axes have the order (x, y) of offsets and locations, so corner 0 is the low one along both, corner 1
the high one along y, corner 2 along x. See ``cudeform/sums_geometry.py`` for shapes and rules.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.vectors import pointer_to
from cudeform.sums_geometry import Level, Pair, SumGeometry

Array = NDArray[Any]


class SumSizes(NamedTuple):
    """The part of a geometry that the loops need, and the layout of an image.

    Attributes:
        out: (OH, OW).
        stride: pixels from one position to the next along (x, y).
        groups, channels, taps: G, D, P.
        group_step: elements from one group of an image to the next.
        pixel_step: elements from one pixel to the next along x.
    """

    out: Pair
    stride: Pair
    groups: int
    channels: int
    taps: int
    group_step: int
    pixel_step: int

    @classmethod
    def of(cls, g: SumGeometry, strides: tuple[int, ...]) -> SumSizes:
        """The sizes of ``g`` for images with these strides, in elements."""
        pixel_step = strides[1] if g.grid is None else strides[2]
        return cls(g.out, g.stride, g.groups, g.channels, g.taps, strides[3], pixel_step)


class TapTable(NamedTuple):
    """Properties of the taps, in flat arrays of rows with one element per tap.

    Attributes:
        integers: width and height of the level; base along x and y.
        numbers: shift along x and y; factor along x and y.
        elements: first element of the level in an image; elements from one row to the next.
    """

    integers: Array
    numbers: Array
    elements: Array

    @classmethod
    def of(cls, g: SumGeometry, strides: tuple[int, ...], dtype: np.dtype[Any]) -> TapTable:
        """The table of ``g`` for images with these strides, in elements."""
        taps = g.tap_list
        levels = [g.levels[tap.level] for tap in taps]

        def row_step(level: Level) -> int:
            return strides[1] if g.grid else level.width * strides[1]

        integers = [
            [level.width for level in levels],
            [level.height for level in levels],
            *zip(*[tap.base for tap in taps], strict=True),
        ]
        numbers = [
            *zip(*[tap.shift for tap in taps], strict=True),
            *zip(*[tap.factor for tap in taps], strict=True),
        ]
        elements = [
            [level.first * strides[1] for level in levels],
            [row_step(level) for level in levels],
        ]
        return cls(
            np.array(integers, np.int32).reshape(-1),
            np.array(numbers, dtype).reshape(-1),
            np.array(elements, np.int64).reshape(-1),
        )


class Positions(NamedTuple):
    """An array (OH, OW, G, ...) of an image, or a copy of a part of it.

    Attributes:
        array: its first element, as an array of length 1.
        present: False if there is no such array.
        row, col, group, tap, pair: strides of its axes, in elements; 0 if there is no such axis.
        origin: index of the element of position (0, 0) and group 0; negative for a part.
    """

    array: Any
    present: bool
    row: int
    col: int
    group: int
    tap: int
    pair: int
    origin: int


class SumSamples(NamedTuple):
    """Offset and mask, or arrays of the same shapes: their tangents or gradients."""

    offset: Positions
    mask: Positions


@inlined
def positions_pointer(positions: Any) -> Any:
    """The same with a pointer in place of the array."""
    array, present, row, col, group, tap, pair, origin = positions
    return Positions(pointer_to(array), present, row, col, group, tap, pair, origin)


@inlined
def sum_pointers(samples: Any) -> Any:
    """Samples with pointers in place of the arrays."""
    return SumSamples(positions_pointer(samples.offset), positions_pointer(samples.mask))


@inlined
def element_index(positions: Any, row: Any, col: Any, group: Any, tap: Any) -> Any:
    """Index of the first element of a tap, position and group."""
    at = positions.origin + row * positions.row + col * positions.col
    return at + group * positions.group + tap * positions.tap
