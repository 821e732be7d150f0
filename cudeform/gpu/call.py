"""One call of the GPU engine: its device, its sizes, and the variant of its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.chunks import Chunk, row_positions
from cudeform.gpu.device_api import conv_sizes
from cudeform.gpu.device_api.commands import FillZero, KernelLaunch
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, kernel, widest
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.device_api.structs import Struct, divisor
from cudeform.gpu.variants import (
    MAX_THREADS,
    atomic_width,
    index_bits_of,
    record_bytes,
    vector_of,
)
from cudeform.options import Options

THREADS = 256

# Maximum number of blocks of a grid-stride loop: they fill the device several times over.
BLOCKS_PER_MULTIPROCESSOR = 32


class Launcher:
    """The device and the variant of a call, and what follows from them.

    Attributes:
        device: the device that runs the call.
        variant: the compile-time parameters of the kernels.
    """

    device: Device
    variant: Variant

    @property
    def itemsize(self) -> int:
        """Bytes of an array element."""
        return ITEMSIZE[self.variant.dtype]

    @property
    def max_blocks(self) -> int:
        """Maximum number of blocks of a launch with a grid-stride loop."""
        return min(self.device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR, MAX_THREADS // THREADS)

    def allocate(self, elements: int, itemsize: int | None = None) -> Memory:
        """Allocate memory for a number of elements, by default of the call's dtype."""
        return self.device.allocate(max(1, elements) * (itemsize or self.itemsize))

    def fill_zero(self, memory: Memory, elements: int, itemsize: int) -> None:
        """Set the first ``elements`` elements of ``memory`` to 0."""
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
        """Launch a kernel with the given numbers of blocks and threads."""
        variant = self.variant
        packed = struct.packed(variant.index_bits, variant.axes, variant.acc_itemsize)
        width = atomic_width(variant.dtype, variant.vector, self.device.compute_capability)
        text = kernel(name, replace(variant, atomic_width=width))
        self.device.queue(KernelLaunch(text, blocks, threads, packed, shared_bytes), pointers)


@dataclass(frozen=True)
class Call(Launcher):
    """One call of the engine.

    Attributes:
        device: the device that runs the call.
        g: sizes of the call.
        operands: arrays in device memory.
        variant: the compile-time parameters of the kernels.
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
        """A call by im2col, with these chunks; it also reads ``others``."""
        dtype, ld_columns = operands.input.dtype, ld_columns_of(g, operands)
        largest = max(most_positions(g, chunks) * g.groups, g.out_channels) * ld_columns
        bits = index_bits_of(g, [*operands.present().values(), *others], largest)
        variant = Variant(dtype, bits, vector_of(g, dtype), axes=g.axes)
        return cls(device, g, operands, variant, options.boundary_grad == "zero")

    @property
    def record_bytes(self) -> int:
        """Bytes of a sample record in shared memory."""
        return record_bytes(self.variant)

    @property
    def ld_columns(self) -> int:
        """Leading dimension of the columns: elements of a row of one group."""
        return ld_columns_of(self.g, self.operands)

    def positions(self, chunk: Chunk) -> int:
        """Number of output positions of a chunk."""
        return chunk.count * chunk.height * row_positions(self.g)

    def pixels(self, chunk: Chunk) -> slice:
        """The output positions of each image of a chunk."""
        in_row = row_positions(self.g)
        return slice(chunk.rows.start * in_row, chunk.rows.stop * in_row)

    def samples(self, chunk: Chunk) -> int:
        """Number of samples of a chunk."""
        return self.positions(chunk) * self.g.taps * self.g.offset_groups

    @property
    def problem(self) -> conv_sizes.Problem:
        """The sizes of the call, as a struct for kernels."""
        return conv_sizes.Problem.of(self.g, self.zero_boundary_grad)

    def chunk(self, chunk: Chunk) -> conv_sizes.Chunk:
        """The chunk, as a struct for kernels."""
        return conv_sizes.Chunk(
            first_image=chunk.images.start,
            images=chunk.count,
            first_row=chunk.rows.start,
            rows=chunk.height,
            positions=self.positions(chunk),
            by_rows=divisor(chunk.height),
        )

    def sampling(
        self, chunk: Chunk, images: DeviceArray | None, lanes: int | None = None
    ) -> conv_sizes.Sampling:
        """The parameters of a kernel that samples channels-last images for a chunk.

        Args:
            chunk: the chunk.
            images: the images of the chunk; None if the kernel reads no image.
            lanes: adjacent threads that share a sample, by default ``lanes()``.
        """
        return conv_sizes.Sampling(
            problem=self.problem,
            chunk=self.chunk(chunk),
            input=self.strides_of(images),
            offset=self.operands.offset.strides,
            mask=self.strides_of(self.operands.mask),
            samples=self.samples(chunk),
            lanes=self.lanes() if lanes is None else lanes,
        )

    def column_layout(self, chunk: Chunk) -> conv_sizes.ColumnLayout:
        """The sizes of the columns of a chunk, as a struct for kernels."""
        return conv_sizes.ColumnLayout(self.positions(chunk), self.ld_columns)

    def strides_of(self, array: DeviceArray | None) -> tuple[int, ...]:
        """Strides of an array with the call's axes; 0 if the array is absent."""
        return (0,) * (2 + self.g.axes) if array is None else array.strides

    def lanes(self) -> int:
        """Threads per sample: the largest power of two, at most 32, that divides its vectors."""
        vectors = self.g.channels // self.g.offset_groups // self.variant.vector
        return min(32, vectors & -vectors) if vectors else 1


def zero_arrays(device: Device, arrays: Sequence[DeviceArray]) -> None:
    """Fill contiguous arrays with zeros."""
    for array in arrays:
        nbytes = prod(array.shape) * ITEMSIZE[array.dtype]
        if nbytes:
            device.queue(FillZero(nbytes), [array.pointer])


def ld_columns_of(g: Geometry, operands: Operands) -> int:
    """Elements of a row of columns: channels of all taps, a 1 for a bias, zeros up to 16 bytes."""
    wide = widest(operands.input.dtype)
    used = g.taps * (g.channels // g.groups) + (operands.bias is not None)
    return max(1, -(-used // wide)) * wide


def most_positions(g: Geometry, chunks: Sequence[Chunk]) -> int:
    """Output positions of the largest chunk."""
    return max(chunk.count * chunk.height for chunk in chunks) * row_positions(g)


def pointer_of(array: DeviceArray | Memory | None) -> int:
    """Device address; 0 if the array is absent."""
    return 0 if array is None else array.pointer
