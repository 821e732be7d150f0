"""One call of the engine: its device, its sizes, and the variant of its kernels."""

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

# Kernels have grid-stride loops: these blocks fill the device several times over.
BLOCKS_PER_MULTIPROCESSOR = 32

# Threads of a launch, at most. A grid-stride index can overshoot the last element by one grid, so
# 32-bit indices need that much headroom; with more elements, indices have 64 bits.
MAX_THREADS = 2**24
MAX_ELEMENTS_32 = 2**31 - 1 - MAX_THREADS

# ``red.global.add.v4.f32`` and the compute capability from which processors have it.
VECTOR_ADDS, VECTOR_CAPABILITY = 4, 90


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
        return chunk.count * chunk.height * self.g.out_w

    def samples(self, chunk: Chunk) -> int:
        """Samples of a chunk."""
        return self.positions(chunk) * self.g.taps * self.g.offset_groups

    @property
    def problem(self) -> params.Problem:
        """Sizes, as kernels take them."""
        return params.Problem.of(self.g, self.zero_boundary_grad)

    def chunk(self, chunk: Chunk) -> params.Chunk:
        """A chunk, as kernels take it."""
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
        """What a kernel takes that samples channels-last images for a chunk.

        Args:
            chunk: the chunk.
            images: its images; None if the kernel locates samples and reads no image.
            lanes: neighbouring threads that share a sample, by default ``lanes()``.
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
        """The columns of a chunk, as kernels take their sizes."""
        return params.ColumnLayout(self.positions(chunk), self.ld_columns)

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


def record_bytes(variant: Variant) -> int:
    """Bytes of a sample record, a multiple of the 16 that a thread loads at once."""
    return 48 + 32 * (variant.acc_itemsize == 8) + 16 * (variant.index_bits == 64)


def tangent_bytes(variant: Variant) -> int:
    """Bytes of the tangent of a sample record."""
    return 64 if variant.acc_itemsize == 8 else 32 + 16 * (variant.index_bits == 64)


def atomic_width(dtype: str, vector: int, capability: int) -> int:
    """Neighbouring numbers that one atomic addition to global memory takes, 4 or 1.

    Args:
        dtype: of the arrays; sums are float64 for float64 and float32 for the others.
        vector: channels that a thread loads at a time.
        capability: such as 90 for sm_90.
    """
    supported = capability >= VECTOR_CAPABILITY and dtype != "float64" and vector % VECTOR_ADDS == 0
    return VECTOR_ADDS if supported and overrides.forced().scatter != "scalar" else 1


def index_bits_of(g: Geometry, arrays: Sequence[DeviceArray | None], largest: int = 0) -> int:
    """Bits of an index into arrays of any strides and into workspace of ``largest`` elements."""
    spans = [_span(array) for array in arrays if array is not None]
    shapes = (g.input_shape, g.offset_shape, g.weight_shape, g.output_shape)
    cells = g.batch * g.offset_groups * (g.in_h + 1) * (g.in_w + 1)
    return 32 if max(*spans, *map(prod, shapes), cells, largest) <= MAX_ELEMENTS_32 else 64


def vector_of(g: Geometry, dtype: str) -> int:
    """Channels that a thread loads at a time: 16 bytes of them if these divide all groups."""
    wide = widest(dtype)
    fits = g.channels // g.offset_groups % wide == 0 and g.channels // g.groups % wide == 0
    return wide if fits and g.channels else 1


def ld_columns_of(g: Geometry, operands: Operands) -> int:
    """Elements of a row of columns: channels of all taps, 1 for a bias, zeros up to 16 bytes."""
    wide = widest(operands.input.dtype)
    used = g.taps * (g.channels // g.groups) + (operands.bias is not None)
    return max(1, -(-used // wide)) * wide


def most_positions(g: Geometry, chunks: Sequence[Chunk]) -> int:
    """Output positions of the largest chunk."""
    return max(chunk.count * chunk.height for chunk in chunks) * g.out_w


def pointer_of(array: DeviceArray | Memory | None) -> int:
    """Device address, 0 for an array that is absent."""
    return 0 if array is None else array.pointer


def strides_of(array: DeviceArray | None) -> tuple[int, ...]:
    """Strides, 0 for an array that is absent."""
    return NO_STRIDES if array is None else array.strides


def _span(array: DeviceArray) -> int:
    """Elements from the first to the last, or the largest stride: kernels compute both."""
    steps = zip(array.shape, array.strides, strict=True)
    reach = sum((size - 1) * abs(stride) for size, stride in steps) + 1
    return max(reach, *map(abs, array.strides))
