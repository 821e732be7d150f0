"""Arrays of any strides and dtype on their way into the loops and out of them.

The loops work on flat arrays of the dtype of the arithmetic. An array that has such numbers one
after the other is used as it is; of any other, as much is copied as a box or a panel needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.loops.arguments import ColumnsAt, Planes, Samples
from cudeform.cpu.loops.transposition import transpose
from cudeform.cpu.tiling import Box
from cudeform.geometry import Geometry

Array = NDArray[Any]


@dataclass(frozen=True)
class PlaneArray:
    """An array (N, channels, *out), or None, whose planes loops read or write.

    Attributes:
        g: sizes of the call.
        array: of any strides and dtype.
        dtype: of the arithmetic.
        as_it_is: whether loops use it without a copy.
    """

    g: Geometry
    array: Array | None
    dtype: np.dtype[Any]
    as_it_is: bool

    @classmethod
    def of(cls, g: Geometry, array: Array | None, dtype: np.dtype[Any]) -> PlaneArray:
        """See whether loops can use an array without a copy."""
        if array is None:
            return cls(g, None, dtype, True)
        distinct = array[:1] if array.strides[0] == 0 else array
        return cls(g, array, dtype, array.dtype == dtype and distinct.flags.c_contiguous)

    @property
    def copied_channels(self) -> int:
        """How many channels a copy has."""
        return 0 if self.array is None or self.as_it_is else self.array.shape[1]

    def planes(self, area: Box, room: Array) -> tuple[Array, Planes]:
        """The planes of an area, flat, without a copy or in ``room``; empty without an array."""
        if self.array is None:
            return room[:0], Planes(0, 0, 0)
        pixels = self.g.out_pixels
        if not self.as_it_is:
            flat = room[: self.copied_channels * len(area)]
            return flat, Planes(pixels, len(area), area.first)
        if len(self.array) > 1 and self.array.strides[0] == 0:
            return self.array[0].reshape(-1), Planes(0, pixels, 0)
        flat = self.array[area.images].reshape(-1)
        return flat, Planes(self.array.shape[1] * pixels, pixels, 0)

    def read(self, box: Box, area: Box, room: Array) -> None:
        """Copy the planes of a box to where those of the area are, unless they are there."""
        if self.array is not None and not self.as_it_is:
            read_box(self.g, self.array, box, self._copy(box, area, room))

    def write(self, box: Box, area: Box, room: Array) -> None:
        """The inverse."""
        if self.array is not None and not self.as_it_is:
            write_box(self.g, self._copy(box, area, room), box, self.array)

    def _copy(self, box: Box, area: Box, room: Array) -> Array:
        """Where the copy of an area has a box, (channels, positions)."""
        flat, _ = self.planes(area, room)
        part = slice(box.first - area.first, box.last - area.first)
        return flat.reshape(self.copied_channels, len(area))[:, part]


Rooms = tuple[Array, Array]


@dataclass(frozen=True)
class SampleArrays:
    """Two arrays with planes of samples: offset and mask, or their tangents or gradients."""

    offset: PlaneArray
    mask: PlaneArray

    @classmethod
    def of(
        cls, g: Geometry, offset: Array | None, mask: Array | None, dtype: np.dtype[Any]
    ) -> SampleArrays:
        """See whether loops can use the arrays without copies."""
        return cls(PlaneArray.of(g, offset, dtype), PlaneArray.of(g, mask, dtype))

    @property
    def present(self) -> bool:
        """Whether there is any."""
        return not (self.offset.array is self.mask.array is None)

    def rooms(self, positions: int) -> Rooms:
        """Scratch memory for copies of so many positions."""
        dtype = self.offset.dtype
        offset = np.empty(self.offset.copied_channels * positions, dtype)
        return offset, np.empty(self.mask.copied_channels * positions, dtype)

    def read(self, box: Box, area: Box, rooms: Rooms) -> None:
        """Copy the planes of a box to where those of the area are, unless they are there."""
        self.offset.read(box, area, rooms[0])
        self.mask.read(box, area, rooms[1])

    def write(self, box: Box, area: Box, rooms: Rooms) -> None:
        """The inverse."""
        self.offset.write(box, area, rooms[0])
        self.mask.write(box, area, rooms[1])

    def to_read(self, area: Box, rooms: Rooms) -> Samples:
        """The planes of an area."""
        offset, offset_planes = self.offset.planes(area, rooms[0])
        mask, mask_planes = self.mask.planes(area, rooms[1])
        return Samples(read_only(offset), offset_planes, read_only(mask), mask_planes)

    def to_write(self, area: Box, rooms: Rooms) -> Samples:
        """The same, for a loop that writes them."""
        offset, offset_planes = self.offset.planes(area, rooms[0])
        mask, mask_planes = self.mask.planes(area, rooms[1])
        return Samples(offset, offset_planes, mask, mask_planes)


def columns_at(area: Box) -> ColumnsAt:
    """Where the columns of an area lie."""
    return ColumnsAt(len(area), area.first)


def write_product(g: Geometry, product: Array, bias: Array | None, box: Box, output: Array) -> None:
    """Write the output (groups, positions, O/groups) of a box, and add the bias."""
    if bias is not None:
        product += bias.astype(product.dtype).reshape(len(product), 1, -1)
    if output.dtype == product.dtype and output.flags.c_contiguous:
        _turn_product(g, product, box, output)
    else:
        write_box(g, product.swapaxes(1, 2).reshape(g.out_channels, len(box)), box, output)


def _turn_product(g: Geometry, product: Array, box: Box, output: Array) -> None:
    """The same without a bias, where the planes of the output lie one after the other."""
    groups, positions, channels = product.shape
    source, target = read_only(product.reshape(-1)), output.reshape(-1)
    done = 0
    while done < positions:
        n, at = divmod(box.first + done, g.out_pixels)
        count = min(positions - done, g.out_pixels - at)
        for group in range(groups):
            row = group * positions + done
            plane = (box.images.start + n) * g.out_channels + group * channels
            to = plane * g.out_pixels + at
            transpose(source, row * channels, channels, target, to, g.out_pixels, count, channels)
        done += count


def write_box(g: Geometry, values: Array, box: Box, array: Array) -> None:
    """Write (channels, positions) of a box into an array (N, channels, *out)."""
    for rectangle in box.rectangles(g):
        target = array[rectangle.index]
        target[...] = values[:, rectangle.part].reshape(target.shape)


def read_box(g: Geometry, array: Array, box: Box, values: Array) -> None:
    """Read (channels, positions) of a box from an array (N, channels, *out)."""
    for rectangle in box.rectangles(g):
        source = array[rectangle.index]
        values[:, rectangle.part].reshape(source.shape, copy=False)[...] = source


def read_only(flat: Array) -> Array:
    """A view for loops to read, so that all they read has one type to Numba."""
    view = flat.view()
    view.flags.writeable = False
    return view
