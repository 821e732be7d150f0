"""One call of the engine: its device, its sizes, and the variant of its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api import sizes
from cudeform.gpu.device_api.commands import FillZero, KernelLaunch
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, kernel, widest
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.device_api.structs import NO_STRIDES, Struct, divisor
from cudeform.gpu.variants import (
    MAX_THREADS,
    atomic_width,
    index_bits_of,
    record_bytes,
    vector_of,
)
from cudeform.options import Options

THREADS = 256

# Kernels have grid-stride loops: these blocks fill the device several times over.
BLOCKS_PER_MULTIPROCESSOR = 32


@dataclass(frozen=True)
class Call:
    """One call of the engine.

    Attributes:
        device: where it runs.
        g: sizes.
        operands: arrays in device memory.
        variant: what is compiled into the kernels.
        zero_boundary_grad: whether the gradient of a coordinate that is exactly -1 is 0.
    """

    device: Device
    g: Geometry
    operands: Operands
    variant: Variant
    zero_boundary_grad: bool

    @classmethod
    def by_columns(
        cls,
        device: Device,
        g: Geometry,
        options: Options,
        operands: Operands,
        chunks: Sequence[Chunk],
        others: Sequence[DeviceArray | None] = (),
    ) -> Call:
        """A call with columns in memory, in some chunks, that reads ``others`` in addition."""
        dtype, ld_columns = operands.input.dtype, ld_columns_of(g, operands)
        largest = max(most_positions(g, chunks) * g.groups, g.out_channels) * ld_columns
        bits = index_bits_of(g, [*operands.present().values(), *others], largest)
        variant = Variant(dtype, bits, vector_of(g, dtype))
        return cls(device, g, operands, variant, options.boundary_grad == "zero")

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the arrays."""
        return ITEMSIZE[self.variant.dtype]

    @property
    def record_bytes(self) -> int:
        """Bytes of a sample record in shared memory."""
        return record_bytes(self.variant)

    @property
    def ld_columns(self) -> int:
        """Leading dimension of the columns: elements of a row of one group."""
        return ld_columns_of(self.g, self.operands)

    @property
    def max_blocks(self) -> int:
        """Blocks of a launch whose loops are grid-stride loops."""
        return min(self.device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR, MAX_THREADS // THREADS)

    def allocate(self, elements: int, itemsize: int | None = None) -> Memory:
        """Memory for some elements, of the call's dtype unless another size is given."""
        return self.device.allocate(max(1, elements) * (itemsize or self.itemsize))

    def fill_zero(self, memory: Memory, elements: int, itemsize: int) -> None:
        """Set the first elements of some memory to 0."""
        self.device.queue(FillZero(elements * itemsize), [memory.pointer])

    def launch(
        self,
        name: str,
        items: int,
        pointers: Sequence[int],
        struct: Struct,
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Launch a kernel with a grid-stride loop over items."""
        if items == 0:
            return
        blocks = min(-(-items // THREADS), self.max_blocks)
        self.launch_blocks(name, blocks, THREADS, pointers, struct, shared_bytes)

    def launch_blocks(
        self,
        name: str,
        blocks: int,
        threads: int,
        pointers: Sequence[int],
        struct: Struct,
        shared_bytes: int,
    ) -> None:
        """Launch a kernel with a grid of given size."""
        packed = struct.packed(self.variant.index_bits)
        capability = self.device.compute_capability
        width = atomic_width(self.variant.dtype, self.variant.vector, capability)
        text = kernel(name, replace(self.variant, atomic_width=width))
        self.device.queue(KernelLaunch(text, blocks, threads, packed, shared_bytes), pointers)

    def positions(self, chunk: Chunk) -> int:
        """Output positions of a chunk."""
        return chunk.count * chunk.height * self.g.out_cols

    def samples(self, chunk: Chunk) -> int:
        """Samples of a chunk."""
        return self.positions(chunk) * self.g.taps * self.g.offset_groups

    @property
    def problem(self) -> sizes.Problem:
        """Sizes, as kernels take them."""
        return sizes.Problem.of(self.g, self.zero_boundary_grad)

    def chunk(self, chunk: Chunk) -> sizes.Chunk:
        """A chunk, as kernels take it."""
        return sizes.Chunk(
            first_image=chunk.images.start,
            images=chunk.count,
            first_row=chunk.rows.start,
            rows=chunk.height,
            positions=self.positions(chunk),
            by_rows=divisor(chunk.height),
        )

    def sampling(
        self, chunk: Chunk, images: DeviceArray | None, lanes: int | None = None
    ) -> sizes.Sampling:
        """What a kernel takes that samples channels-last images for a chunk.

        Args:
            chunk: the chunk.
            images: its images; None if the kernel locates samples and reads no image.
            lanes: neighbouring threads that share a sample, by default ``lanes()``.
        """
        return sizes.Sampling(
            problem=self.problem,
            chunk=self.chunk(chunk),
            input=strides_of(images),
            offset=self.operands.offset.strides,
            mask=strides_of(self.operands.mask),
            samples=self.samples(chunk),
            lanes=self.lanes() if lanes is None else lanes,
        )

    def column_layout(self, chunk: Chunk) -> sizes.ColumnLayout:
        """The columns of a chunk, as kernels take their sizes."""
        return sizes.ColumnLayout(self.positions(chunk), self.ld_columns)

    def lanes(self) -> int:
        """Threads that share a sample: the most that divide its vectors evenly, a warp at most."""
        vectors = self.g.channels // self.g.offset_groups // self.variant.vector
        return min(32, vectors & -vectors) if vectors else 1


def zero_arrays(device: Device, arrays: Sequence[DeviceArray]) -> None:
    """Fill contiguous arrays with zeros."""
    for array in arrays:
        nbytes = prod(array.shape) * ITEMSIZE[array.dtype]
        if nbytes:
            device.queue(FillZero(nbytes), [array.pointer])


def ld_columns_of(g: Geometry, operands: Operands) -> int:
    """Elements of a row of columns: channels of all taps, 1 for a bias, zeros up to 16 bytes."""
    wide = widest(operands.input.dtype)
    used = g.taps * (g.channels // g.groups) + (operands.bias is not None)
    return max(1, -(-used // wide)) * wide


def most_positions(g: Geometry, chunks: Sequence[Chunk]) -> int:
    """Output positions of the largest chunk."""
    return max(chunk.count * chunk.height for chunk in chunks) * g.out_cols


def pointer_of(array: DeviceArray | Memory | None) -> int:
    """Device address, 0 for an array that is absent."""
    return 0 if array is None else array.pointer


def strides_of(array: DeviceArray | None) -> tuple[int, ...]:
    """Strides, 0 for an array that is absent."""
    return NO_STRIDES if array is None else array.strides
