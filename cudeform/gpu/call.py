"""One call of the GPU engine: its device, its sizes and its kernel variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu import overrides
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api import params
from cudeform.gpu.device_api.commands import FillZero, KernelLaunch
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, kernel, widest
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.device_api.structs import NO_STRIDES, Struct, divisor
from cudeform.options import Options

THREADS = 256

# Upper limit for grid-stride loops: enough blocks to fill the device several times over.
BLOCKS_PER_MULTIPROCESSOR = 32

# Maximum number of threads in a launch. A grid-stride index can exceed the last element by one
# grid, so 32-bit indices need that much headroom. Larger arrays need 64-bit indices.
MAX_THREADS = 2**24
MAX_ELEMENTS_32 = 2**31 - 1 - MAX_THREADS

# Width of ``red.global.add.v4.f32`` and the lowest compute capability that supports it.
VECTOR_ADDS, VECTOR_CAPABILITY = 4, 90


@dataclass(frozen=True)
class Call:
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
        """Make a call that stores columns in memory, chunk by chunk, and also reads ``others``."""
        dtype, ld_columns = operands.input.dtype, ld_columns_of(g, operands)
        largest = max(most_positions(g, chunks) * g.groups, g.out_channels) * ld_columns
        bits = index_bits_of(g, [*operands.present().values(), *others], largest)
        variant = Variant(dtype, bits, vector_of(g, dtype))
        return cls(device, g, operands, variant, options.boundary_grad == "zero")

    @property
    def itemsize(self) -> int:
        """Bytes per array element."""
        return ITEMSIZE[self.variant.dtype]

    @property
    def record_bytes(self) -> int:
        """Bytes of a sample record in shared memory."""
        return record_bytes(self.variant)

    @property
    def ld_columns(self) -> int:
        """Leading dimension of the columns: elements per row of one group."""
        return ld_columns_of(self.g, self.operands)

    @property
    def max_blocks(self) -> int:
        """Maximum number of blocks in a launch of a kernel with a grid-stride loop."""
        return min(self.device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR, MAX_THREADS // THREADS)

    def allocate(self, elements: int, itemsize: int | None = None) -> Memory:
        """Allocate memory for elements of the given size, by default that of the call's dtype."""
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
        """Launch a kernel with the given numbers of blocks and threads per block."""
        packed = struct.packed(self.variant.index_bits)
        capability = self.device.compute_capability
        width = atomic_width(self.variant.dtype, self.variant.vector, capability)
        text = kernel(name, replace(self.variant, atomic_width=width))
        self.device.queue(KernelLaunch(text, blocks, threads, packed, shared_bytes), pointers)

    def positions(self, chunk: Chunk) -> int:
        """Number of output positions in a chunk."""
        return chunk.count * chunk.height * self.g.out_w

    def samples(self, chunk: Chunk) -> int:
        """Number of samples in a chunk."""
        return self.positions(chunk) * self.g.taps * self.g.offset_groups

    @property
    def problem(self) -> params.Problem:
        """The sizes of the call as a kernel parameter."""
        return params.Problem.of(self.g, self.zero_boundary_grad)

    def chunk(self, chunk: Chunk) -> params.Chunk:
        """The chunk as a kernel parameter."""
        return params.Chunk(
            first_image=chunk.images.start,
            images=chunk.count,
            first_row=chunk.rows.start,
            rows=chunk.height,
            positions=self.positions(chunk),
            by_rows=divisor(chunk.height),
        )

    def sampling(
        self, chunk: Chunk, images: DeviceArray | None, lanes: int | None = None
    ) -> params.Sampling:
        """The parameters of a kernel that samples channels-last images for a chunk.

        Args:
            chunk: the chunk.
            images: the images of the chunk; None if the kernel reads no image.
            lanes: number of adjacent threads that share a sample, by default ``lanes()``.
        """
        return params.Sampling(
            problem=self.problem,
            chunk=self.chunk(chunk),
            input=strides_of(images),
            offset=self.operands.offset.strides,
            mask=strides_of(self.operands.mask),
            samples=self.samples(chunk),
            lanes=self.lanes() if lanes is None else lanes,
        )

    def column_layout(self, chunk: Chunk) -> params.ColumnLayout:
        """The sizes of a chunk's columns as a kernel parameter."""
        return params.ColumnLayout(self.positions(chunk), self.ld_columns)

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


def record_bytes(variant: Variant) -> int:
    """Bytes of a sample record: a multiple of 16, the size of the widest load."""
    return 48 + 32 * (variant.acc_itemsize == 8) + 16 * (variant.index_bits == 64)


def tangent_bytes(variant: Variant) -> int:
    """Bytes of the tangent of a sample record."""
    return 64 if variant.acc_itemsize == 8 else 32 + 16 * (variant.index_bits == 64)


def atomic_width(dtype: str, vector: int, capability: int) -> int:
    """Number of adjacent elements that one atomic addition to global memory updates: 4 or 1.

    Args:
        dtype: dtype of the arrays. Sums are float64 for float64, float32 for all others.
        vector: number of channels that a thread loads at a time.
        capability: compute capability of the device, such as 90 for sm_90.
    """
    supported = capability >= VECTOR_CAPABILITY and dtype != "float64" and vector % VECTOR_ADDS == 0
    return VECTOR_ADDS if supported and overrides.forced().scatter != "scalar" else 1


def index_bits_of(g: Geometry, arrays: Sequence[DeviceArray | None], largest: int = 0) -> int:
    """Bits of an index that can address the arrays and a workspace of ``largest`` elements."""
    spans = [_span(array) for array in arrays if array is not None]
    shapes = (g.input_shape, g.offset_shape, g.weight_shape, g.output_shape)
    cells = g.batch * g.offset_groups * (g.in_h + 1) * (g.in_w + 1)
    return 32 if max(*spans, *map(prod, shapes), cells, largest) <= MAX_ELEMENTS_32 else 64


def vector_of(g: Geometry, dtype: str) -> int:
    """Channels that a thread loads at a time: 16 bytes if they divide every group, else one."""
    wide = widest(dtype)
    fits = g.channels // g.offset_groups % wide == 0 and g.channels // g.groups % wide == 0
    return wide if fits and g.channels else 1


def ld_columns_of(g: Geometry, operands: Operands) -> int:
    """Elements per row of columns: all taps' channels, 1 for a bias, padding to 16 bytes."""
    wide = widest(operands.input.dtype)
    used = g.taps * (g.channels // g.groups) + (operands.bias is not None)
    return max(1, -(-used // wide)) * wide


def most_positions(g: Geometry, chunks: Sequence[Chunk]) -> int:
    """Number of output positions in the largest chunk."""
    return max(chunk.count * chunk.height for chunk in chunks) * g.out_w


def pointer_of(array: DeviceArray | Memory | None) -> int:
    """Device address of an array; 0 if the array is absent."""
    return 0 if array is None else array.pointer


def strides_of(array: DeviceArray | None) -> tuple[int, ...]:
    """Strides of an array; zeros if the array is absent."""
    return NO_STRIDES if array is None else array.strides


def _span(array: DeviceArray) -> int:
    """The larger of the elements spanned and the largest stride: kernels compute both."""
    steps = zip(array.shape, array.strides, strict=True)
    reach = sum((size - 1) * abs(stride) for size, stride in steps) + 1
    return max(reach, *map(abs, array.strides))
