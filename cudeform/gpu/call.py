"""What the launches of a call have in common: device, geometry, variant of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from cudeform.arrays import Operands
from cudeform.geometry import Geometry
from cudeform.gpu import overrides
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, kernel, widest
from cudeform.gpu.device_api.params import Layout
from cudeform.gpu.device_api.protocol import Device, DeviceArray, Memory
from cudeform.options import Options

THREADS = 256

# Blocks stride over what is left: enough of them to fill the device several times over.
BLOCKS_PER_MULTIPROCESSOR = 32

# Threads of a launch, at most. A thread goes on by as many items, so an index runs that far beyond
# the last of them before it is compared, and more elements than these take 64-bit indices.
MOST_THREADS = 2**24
MAX_ELEMENTS_32 = 2**31 - 1 - MOST_THREADS


# ``red.global.add.v4.f32`` and the processors that have it.
VECTOR_ADDS, VECTOR_CAPABILITY = 4, 90


@dataclass(frozen=True)
class Call:
    """One call of the engine.

    Attributes:
        device: where it runs.
        g: its sizes.
        operands: arrays in device memory.
        variant: of the kernels.
        zero_boundary_grad: the offset's gradient is 0 where a coordinate is -1.
    """

    device: Device
    g: Geometry
    operands: Operands
    variant: Variant
    zero_boundary_grad: bool

    @classmethod
    def of(
        cls,
        device: Device,
        g: Geometry,
        options: Options,
        operands: Operands,
        chunks: Sequence[Chunk],
        others: Sequence[DeviceArray | None] = (),
    ) -> Call:
        """Prepare a call that is worked through in ``chunks`` and also reads ``others``."""
        dtype = operands.input.dtype
        columns = most_positions(g, chunks) * row_of(g, operands)
        packed = g.out_channels * leading_of(g, operands)
        bits = index_bits_of(g, [*operands.present().values(), *others], max(columns, packed))
        variant = Variant(dtype, bits, vector_of(g, dtype))
        return cls(device, g, operands, variant, options.boundary_grad == "zero")

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEMSIZE[self.variant.dtype]

    @property
    def plan_bytes(self) -> int:
        """Bytes of a struct Plan in shared memory."""
        return plan_bytes(self.variant)

    @property
    def leading(self) -> int:
        """Elements of a row of columns."""
        return leading_of(self.g, self.operands)

    @property
    def most_blocks(self) -> int:
        """Blocks of a launch whose blocks stride."""
        return min(self.device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR, MOST_THREADS // THREADS)

    def allocate(self, elements: int, itemsize: int | None = None) -> Memory:
        """Memory for some elements, of the call's dtype unless another size is given."""
        return self.device.allocate(max(1, elements) * (itemsize or self.itemsize))

    def launch(
        self,
        name: str,
        items: int,
        pointers: Sequence[int],
        fields: dict[str, Any],
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel with a thread for each item, or fewer that stride."""
        if items == 0:
            return
        blocks = min(-(-items // THREADS), self.most_blocks)
        self.launch_blocks(name, blocks, THREADS, pointers, fields, shared_bytes)

    def launch_blocks(
        self,
        name: str,
        blocks: int,
        threads: int,
        pointers: Sequence[int],
        fields: dict[str, Any],
        shared_bytes: int,
    ) -> None:
        """Run a kernel with just so many blocks of so many threads."""
        params = Layout(self.variant.index_bits).fill(self.g, fields)
        width = atomic_width(
            self.variant.dtype, self.variant.vector, self.device.compute_capability
        )
        text = kernel(name, replace(self.variant, atomic_width=width))
        self.device.launch(text, blocks, threads, pointers, params, shared_bytes)

    def positions(self, chunk: Chunk) -> int:
        """Output positions of a chunk."""
        return chunk.count * chunk.height * self.g.out_w

    def samples(self, chunk: Chunk) -> int:
        """Samples of a chunk."""
        return self.positions(chunk) * self.g.taps * self.g.offset_groups

    def chunk_fields(self, chunk: Chunk, table: DeviceArray) -> dict[str, Any]:
        """Fields of struct Launch for a kernel that samples ``table`` for a chunk."""
        g, operands = self.g, self.operands
        return {
            "input": table.strides,
            "offset": operands.offset.strides,
            "mask": strides_of(operands.mask),
            "positions": self.positions(chunk),
            "samples": self.samples(chunk),
            "cells": chunk.count * g.offset_groups * (g.in_h + 1) * (g.in_w + 1),
            "ld_columns": self.leading,
            "first_image": chunk.images.start,
            "images": chunk.count,
            "first_row": chunk.rows.start,
            "rows": chunk.height,
            "lanes": self.lanes(),
        }

    def lanes(self) -> int:
        """Threads that share a sample: the most that divide its vectors evenly, a warp at most."""
        vectors = self.g.channels // self.g.offset_groups // self.variant.vector
        return min(32, vectors & -vectors) if vectors else 1


def plan_bytes(variant: Variant) -> int:
    """Bytes of a struct Plan: 16 at a time, what a thread loads at once."""
    return 48 + 32 * (variant.acc_itemsize == 8) + 16 * (variant.index_bits == 64)


def move_bytes(variant: Variant) -> int:
    """Bytes of a struct Move."""
    return 64 if variant.acc_itemsize == 8 else 32 + 16 * (variant.index_bits == 64)


def atomic_width(dtype: str, vector: int, capability: int) -> int:
    """Neighbouring numbers that one atomic addition to global memory takes, 4 or 1.

    Args:
        dtype: of the arrays; sums are float64 for float64 and float32 for the others.
        vector: channels that a thread has at a time.
        capability: such as 90 for sm_90.
    """
    supported = capability >= VECTOR_CAPABILITY and dtype != "float64" and vector % VECTOR_ADDS == 0
    return VECTOR_ADDS if supported and overrides.forced().scatter != "scalar" else 1


def index_bits_of(g: Geometry, arrays: Sequence[DeviceArray | None], columns: int = 0) -> int:
    """Width of an index for arrays of any strides, for cells, and for some elements of columns."""
    spans = [_span(array) for array in arrays if array is not None]
    shapes = (g.input_shape, g.offset_shape, g.weight_shape, g.output_shape)
    cells = g.batch * g.offset_groups * (g.in_h + 1) * (g.in_w + 1)
    return 32 if max(*spans, *map(prod, shapes), cells, columns) <= MAX_ELEMENTS_32 else 64


def vector_of(g: Geometry, dtype: str) -> int:
    """Channels that kernels take at a time: 16 bytes of them where both kinds of group allow it."""
    wide = widest(dtype)
    fits = g.channels // g.offset_groups % wide == 0 and g.channels // g.groups % wide == 0
    return wide if fits and g.channels else 1


def leading_of(g: Geometry, operands: Operands) -> int:
    """Elements of a row of columns: all taps, a 1 if there is a bias, zeros up to 16 bytes."""
    wide = widest(operands.input.dtype)
    used = g.taps * (g.channels // g.groups) + (operands.bias is not None)
    return max(1, -(-used // wide)) * wide


def row_of(g: Geometry, operands: Operands) -> int:
    """Elements of the columns of one output position, all groups together."""
    return g.groups * leading_of(g, operands)


def most_positions(g: Geometry, chunks: Sequence[Chunk]) -> int:
    """Output positions of the largest chunk."""
    return max(chunk.count * chunk.height for chunk in chunks) * g.out_w


def pointer_of(array: DeviceArray | None) -> int:
    """Address, 0 for an array that is absent."""
    return 0 if array is None else array.pointer


def strides_of(array: DeviceArray | None) -> tuple[int, ...]:
    """Strides, 0 for an array that is absent."""
    return (0, 0, 0, 0) if array is None else array.strides


def _span(array: DeviceArray) -> int:
    """Elements between the first and the last, or the largest stride, which a kernel takes too."""
    steps = zip(array.shape, array.strides, strict=True)
    reach = sum((size - 1) * abs(stride) for size, stride in steps) + 1
    return max(reach, *map(abs, array.strides))
