"""Arrays (N, OH, OW, G, ...) with any strides and dtype, as the loops over sums take them.

The loops take any strides in place, if the array has the compute dtype and the channels of an
output are adjacent. From any other array, the part of a box is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.layouts import read_only
from cudeform.cpu.loops.sums.arguments import Positions
from cudeform.cpu.tiling import Box, Rectangle
from cudeform.sums_geometry import SumGeometry

Array = NDArray[Any]


def element_strides(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def is_addressable(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a pointer and strides in elements lead to all numbers, which have this dtype."""
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    return array.dtype == dtype and array.flags.aligned and whole


def has_adjacent_channels(array: Array) -> bool:
    """Whether the elements of the last axis are adjacent."""
    return array.shape[-1] == 1 or array.strides[-1] == array.itemsize


def first_element(array: Array) -> Array:
    """The first element as an array of length 1, from which a loop takes the pointer."""
    index: tuple[int | slice, ...] = (*(0,) * (array.ndim - 1), slice(0, 1))
    return array[index]


def _index(part: Rectangle) -> tuple[int | slice, ...]:
    """Index of positions in an array (N, OH, OW, ...)."""
    return part.image, *part.slices


@dataclass(frozen=True)
class PositionArray:
    """An array (N, OH, OW, G, ...), or None, that the loops read or write.

    Attributes:
        array: the array, with any strides and dtype.
        dtype: the compute dtype.
        zero_copy: whether the loops use the array without a copy.
        channels: whether the last axis has channels, which the loops need adjacent.
        first_group: number of the first group, if the array has a part of the groups.
    """

    array: Array | None
    dtype: np.dtype[Any]
    zero_copy: bool
    channels: bool
    first_group: int = 0

    @classmethod
    def of(
        cls, array: Array | None, dtype: np.dtype[Any], *, channels: bool = False
    ) -> PositionArray:
        """Wrap an array, and find out whether the loops can use it without a copy."""
        if array is None:
            return cls(None, dtype, True, channels)
        adjacent = not channels or has_adjacent_channels(array)
        return cls(array, dtype, is_addressable(array, dtype) and adjacent, channels)

    def of_group(self, group: int) -> PositionArray:
        """The part of one group."""
        if self.array is None:
            return self
        return replace(self, array=self.array[:, :, :, group : group + 1], first_group=group)

    @property
    def copied(self) -> int:
        """Number of elements to copy per position."""
        if self.array is None or self.zero_copy:
            return 0
        return prod(self.array.shape[3:])

    def buffer(self, positions: int) -> Array:
        """Allocate memory for a copy of so many positions."""
        return np.empty(max(1, positions * self.copied), self.dtype)

    def layout(self, box: Box, buffer: Array, *, written: bool) -> Positions:
        """The positions of a box for a loop; they are in ``buffer`` if a copy is needed."""
        if self.array is None:
            return Positions(buffer[:1] if written else read_only(buffer[:1]), False, *(0,) * 6)
        if self.zero_copy:
            image = self.array[box.images.start]
            row, *others = element_strides(image)
            origin = 0
        else:
            image = self._copy(box, buffer)
            col, *inner = element_strides(image)
            row, others = col * self.array.shape[2], [col, *inner]
            origin = -col * box.first
        col, group, tap, pair = (*others, 0, 0)[:4]
        first = first_element(image)
        origin -= self.first_group * group
        array = first if written else read_only(first)
        return Positions(array, True, row, col, group, tap, pair, origin)

    def read(self, g: SumGeometry, box: Box, buffer: Array) -> None:
        """If a copy is needed, copy the positions of a box into ``buffer``."""
        if self.array is not None and not self.zero_copy:
            copy = self._copy(box, buffer)
            for part in box.rectangles(g):
                source = self.array[_index(part)]
                copy[part.in_box].reshape(source.shape, copy=False)[...] = source

    def write(self, g: SumGeometry, box: Box, buffer: Array) -> None:
        """If a copy is needed, copy the positions of a box from ``buffer``."""
        if self.array is not None and not self.zero_copy:
            copy = self._copy(box, buffer)
            for part in box.rectangles(g):
                target = self.array[_index(part)]
                target[...] = copy[part.in_box].reshape(target.shape)

    def _copy(self, box: Box, buffer: Array) -> Array:
        """A box's copy, (positions, G, ...)."""
        assert self.array is not None
        return buffer[: len(box) * self.copied].reshape(len(box), *self.array.shape[3:])


@dataclass(frozen=True)
class BoxArrays:
    """The arrays of positions of a call.

    Attributes:
        g: geometry of the call.
        read: arrays that the loops read.
        written: arrays that they write.
    """

    g: SumGeometry
    read: tuple[PositionArray, ...]
    written: tuple[PositionArray, ...] = ()

    def of_group(self, group: int) -> BoxArrays:
        """The parts of one group."""
        read, written = (
            tuple([each.of_group(group) for each in arrays]) for arrays in (self.read, self.written)
        )
        return BoxArrays(self.g, read, written)

    @property
    def copied(self) -> int:
        """Number of elements to copy per position."""
        return sum(each.copied for each in (*self.read, *self.written))

    def buffers(self, positions: int) -> list[Array]:
        """Allocate memory for copies of so many positions."""
        return [each.buffer(positions) for each in (*self.read, *self.written)]

    @contextmanager
    def layouts(self, box: Box, buffers: list[Array]) -> Iterator[list[Positions]]:
        """The positions of a box in all arrays; what is written reaches them at the end."""
        pairs = list(zip((*self.read, *self.written), buffers, strict=True))
        count = len(self.read)
        for each, buffer in pairs[:count]:
            each.read(self.g, box, buffer)
        yield [
            each.layout(box, buffer, written=at >= count) for at, (each, buffer) in enumerate(pairs)
        ]
        for each, buffer in pairs[count:]:
            each.write(self.g, box, buffer)
