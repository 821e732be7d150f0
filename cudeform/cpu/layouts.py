"""Conversion of arrays with any strides and dtype to the flat arrays of the loops, and back.

The loops read and write flat arrays of the compute dtype. An array that is contiguous and has this
dtype is used without a copy. From any other array, the part of a box or a panel is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.loops.arguments import ColumnLayout, Planes, Samples
from cudeform.cpu.loops.transposition import transpose
from cudeform.cpu.tiling import Box
from cudeform.geometry import Geometry

Array = NDArray[Any]


@dataclass(frozen=True)
class PlaneArray:
    """An array (N, channels, *out), or None, whose planes the loops read or write.

    Attributes:
        g: geometry of the call.
        array: the array, with any strides and dtype.
        dtype: the compute dtype.
        as_it_is: whether the loops use the array without a copy.
    """

    g: Geometry
    array: Array | None
    dtype: np.dtype[Any]
    zero_copy: bool

    @classmethod
    def of(cls, g: Geometry, array: Array | None, dtype: np.dtype[Any]) -> PlaneArray:
        """Wrap an array, and find out whether the loops can use it without a copy."""
        if array is None:
            return cls(g, None, dtype, True)
        stored = array[:1] if array.strides[0] == 0 else array  # the batch may be broadcast
        return cls(g, array, dtype, array.dtype == dtype and stored.flags.c_contiguous)

    @property
    def copied_channels(self) -> int:
        """Number of channels to copy; 0 if the array is absent or used without a copy."""
        return 0 if self.array is None or self.zero_copy else self.array.shape[1]

    def planes(self, region: Box, buffer: Array) -> tuple[Array, Planes]:
        """The planes of an area: a flat array, which is ``room`` if a copy is needed.

        The flat array is empty if the array is absent.
        """
        if self.array is None:
            return buffer[:0], Planes(0, 0, 0)
        pixels = self.g.out_pixels
        if not self.zero_copy:
            flat = buffer[: self.copied_channels * len(region)]
            return flat, Planes(pixels, len(region), region.first)
        if len(self.array) > 1 and self.array.strides[0] == 0:
            return self.array[0].reshape(-1), Planes(0, pixels, 0)
        flat = self.array[region.images].reshape(-1)
        return flat, Planes(self.array.shape[1] * pixels, pixels, 0)

    def read(self, box: Box, region: Box, buffer: Array) -> None:
        """If a copy is needed, copy the planes of a box into the area's copy in ``room``."""
        if self.array is not None and not self.zero_copy:
            read_box(self.g, self.array, box, self._copy(box, region, buffer))

    def write(self, box: Box, region: Box, buffer: Array) -> None:
        """If a copy is needed, copy the planes of a box from ``room`` into the array."""
        if self.array is not None and not self.zero_copy:
            write_box(self.g, self._copy(box, region, buffer), box, self.array)

    def _copy(self, box: Box, region: Box, buffer: Array) -> Array:
        """The part of an area's copy that belongs to a box, (channels, positions)."""
        flat, _ = self.planes(region, buffer)
        part = slice(box.first - region.first, box.last - region.first)
        return flat.reshape(self.copied_channels, len(region))[:, part]


Buffers = tuple[Array, Array]


@dataclass(frozen=True)
class SampleArrays:
    """Two arrays with a plane per sample value: offset and mask, their tangents or gradients."""

    offset: PlaneArray
    mask: PlaneArray

    @classmethod
    def of(
        cls, g: Geometry, offset: Array | None, mask: Array | None, dtype: np.dtype[Any]
    ) -> SampleArrays:
        """Wrap the arrays, and find out whether the loops can use them without copies."""
        return cls(PlaneArray.of(g, offset, dtype), PlaneArray.of(g, mask, dtype))

    @property
    def present(self) -> bool:
        """Whether at least one of the arrays is present."""
        return not (self.offset.array is self.mask.array is None)

    def buffers(self, positions: int) -> Buffers:
        """Allocate scratch memory for copies of ``positions`` positions."""
        dtype = self.offset.dtype
        offset = np.empty(self.offset.copied_channels * positions, dtype)
        return offset, np.empty(self.mask.copied_channels * positions, dtype)

    def read(self, box: Box, region: Box, buffers: Buffers) -> None:
        """As :meth:`PlaneArray.read`, for both arrays."""
        self.offset.read(box, region, buffers[0])
        self.mask.read(box, region, buffers[1])

    def write(self, box: Box, region: Box, buffers: Buffers) -> None:
        """As :meth:`PlaneArray.write`, for both arrays."""
        self.offset.write(box, region, buffers[0])
        self.mask.write(box, region, buffers[1])

    def for_reading(self, region: Box, buffers: Buffers) -> Samples:
        """The planes of an area, for a loop that reads them."""
        offset, offset_planes = self.offset.planes(region, buffers[0])
        mask, mask_planes = self.mask.planes(region, buffers[1])
        return Samples(read_only(offset), offset_planes, read_only(mask), mask_planes)

    def for_writing(self, region: Box, buffers: Buffers) -> Samples:
        """The planes of an area, for a loop that writes them."""
        offset, offset_planes = self.offset.planes(region, buffers[0])
        mask, mask_planes = self.mask.planes(region, buffers[1])
        return Samples(offset, offset_planes, mask, mask_planes)


def column_layout(region: Box) -> ColumnLayout:
    """The layout of an area's columns in memory."""
    return ColumnLayout(len(region), region.first)


def write_product(g: Geometry, product: Array, bias: Array | None, box: Box, output: Array) -> None:
    """Add the bias to a box's product (groups, positions, O/groups) and write it to the output."""
    if bias is not None:
        product += bias.astype(product.dtype).reshape(len(product), 1, -1)
    if output.dtype == product.dtype and output.flags.c_contiguous:
        _transpose_product(g, product, box, output)
    else:
        write_box(g, product.swapaxes(1, 2).reshape(g.out_channels, len(box)), box, output)


def _transpose_product(g: Geometry, product: Array, box: Box, output: Array) -> None:
    """Write a box's product to a contiguous output of the same dtype."""
    groups, positions, channels = product.shape
    source, target = read_only(product.reshape(-1)), output.reshape(-1)
    done = 0
    while done < positions:
        n, pixel = divmod(box.first + done, g.out_pixels)
        count = min(positions - done, g.out_pixels - pixel)
        for group in range(groups):
            row = group * positions + done
            plane = (box.images.start + n) * g.out_channels + group * channels
            start = plane * g.out_pixels + pixel
            rows, columns = (row * channels, channels), (start, g.out_pixels)
            transpose(source, *rows, target, *columns, count, channels)
        done += count


def write_box(g: Geometry, values: Array, box: Box, array: Array) -> None:
    """Write (channels, positions) of a box into an array (N, channels, *out)."""
    for rectangle in box.rectangles(g):
        target = array[rectangle.index]
        target[...] = values[:, rectangle.in_box].reshape(target.shape)


def read_box(g: Geometry, array: Array, box: Box, values: Array) -> None:
    """Read (channels, positions) of a box from an array (N, channels, *out)."""
    for rectangle in box.rectangles(g):
        source = array[rectangle.index]
        values[:, rectangle.in_box].reshape(source.shape, copy=False)[...] = source


def read_only(flat: Array) -> Array:
    """A read-only view. The loops get only such inputs, so Numba compiles one type of each."""
    view = flat.view()
    view.flags.writeable = False
    return view
