"""The gradient of the input without atomics, by a sorted gather: the same bits in every run.

Each sample lies in one cell, the box between adjacent pixels, which are its corners: four in two
dimensions, eight in three. The cells of an image reach one pixel beyond it on each side. The
samples of each cell are listed and sorted. Then each pixel sums the contributions of the cells
around it, in the order of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from cudeform.arrays import DeviceArray, Tangents
from cudeform.geometry import Geometry
from cudeform.gpu.call import THREADS, Call, Launcher, most_positions, pointer_of
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.conv_sizes import TangentStrides
from cudeform.gpu.device_api.protocol import Memory

INT_BYTES = 4
MAX_INDEX_BYTES = 8


@dataclass(frozen=True)
class Scratch:
    """Memory of the gather, for the largest chunk.

    Attributes:
        counts: number of samples of each cell; after them, the total that has been assigned.
        starts: where the list of each cell starts.
        cells: the cell of each sample.
        slots: the number of each sample within its cell, in no fixed order.
        weights: corner weights of each sample.
        listed: samples by cell, in no fixed order.
        ordered: samples by cell, in order.
    """

    counts: Memory
    starts: Memory
    cells: Memory
    slots: Memory
    weights: Memory
    listed: Memory
    ordered: Memory

    @classmethod
    def of(cls, call: Call, chunks: list[Chunk]) -> Scratch:
        """Allocate memory for the largest chunk."""
        g = call.g
        samples = most_positions(g, chunks) * g.taps * g.offset_groups
        return cls.for_sizes(call, samples, _cells(g, max(chunk.count for chunk in chunks)))

    @classmethod
    def for_sizes(cls, call: Launcher, samples: int, cells: int) -> Scratch:
        """Allocate memory for numbers of samples and cells."""
        return cls(
            counts=call.allocate(cells + 1, INT_BYTES),
            starts=call.allocate(cells, INT_BYTES),
            cells=call.allocate(samples, MAX_INDEX_BYTES),
            slots=call.allocate(samples, INT_BYTES),
            weights=call.allocate(2**call.variant.axes * samples, call.variant.acc_itemsize),
            listed=call.allocate(samples, INT_BYTES),
            ordered=call.allocate(samples, INT_BYTES),
        )


def scratch_costs(g: Geometry, acc_itemsize: int) -> Costs:
    """Workspace of ``Scratch``."""
    return scratch_costs_of(_cells(g, 1), g.taps * g.offset_groups, 2**g.axes * acc_itemsize)


def scratch_costs_of(cells: int, samples: int, weight_bytes: int) -> Costs:
    """Workspace for the cells of an image and the samples of a position."""
    sample = MAX_INDEX_BYTES + 3 * INT_BYTES + weight_bytes
    return Costs(image=2 * INT_BYTES * cells + INT_BYTES, position=samples * sample)


def _cells(g: Geometry, images: int) -> int:
    return images * g.offset_groups * prod(size + 1 for size in g.size)


def gather(
    call: Call,
    chunk: Chunk,
    images: DeviceArray,
    columns: Memory,
    grad_images: Memory,
    scratch: Scratch,
    *,
    accumulate: bool,
    tangents: Tangents | None = None,
) -> None:
    """Compute the gradient of the channels-last input from the gradient of the columns.

    Args:
        call: the call.
        chunk: the chunk of the columns.
        images: the channels-last images that were sampled.
        columns: the gradient of the columns.
        grad_images: the result, dense channels-last images.
        scratch: memory of the gather.
        accumulate: whether to add to ``grad_images`` instead of overwriting them.
        tangents: tangents of offset and mask. If given, the tangent of each corner weight replaces
            the weight.
    """
    g = call.g
    samples, cells = call.samples(chunk), _cells(g, chunk.count)
    s = scratch
    call.fill_zero(s.counts, cells + 1, INT_BYTES)
    _count(call, chunk, s, tangents)
    sort_samples(call, s, samples, cells)
    add = (columns, s.counts, s.starts, s.ordered, s.weights, grad_images)
    call.launch(
        "gather_grad_input",
        chunk.count * g.in_pixels * g.offset_groups * call.lanes(),
        [memory.pointer for memory in add],
        conv_params.GatherGradInput(
            problem=call.problem,
            layout=call.column_layout(chunk),
            images=chunk.count,
            lanes=call.lanes(),
            accumulate=accumulate,
        ),
    )


def sort_samples(call: Launcher, s: Scratch, samples: int, cells: int) -> None:
    """List the counted samples of each cell, in ascending order."""
    total = s.counts.pointer + cells * INT_BYTES
    call.launch(
        "scan_cells",
        cells,
        (s.counts.pointer, s.starts.pointer, total),
        conv_params.ScanCells(cells),
        shared_bytes=(THREADS + 1) * INT_BYTES,
    )
    fill = (s.cells, s.slots, s.starts, s.listed)
    call.launch(
        "fill_cells", samples, [memory.pointer for memory in fill], conv_params.FillCells(samples)
    )
    sort = (s.cells, s.counts, s.starts, s.listed, s.ordered)
    call.launch(
        "sort_cells", samples, [memory.pointer for memory in sort], conv_params.SortCells(samples)
    )


def _count(call: Call, chunk: Chunk, s: Scratch, tangents: Tangents | None) -> None:
    """Find the cell of each sample, and count the samples of each cell."""
    along = Tangents() if tangents is None else tangents
    struct = conv_params.CountCells(
        sampling=call.sampling(chunk, None),
        tangents=TangentStrides(
            input=call.strides_of(None),
            offset=call.strides_of(along.offset),
            mask=call.strides_of(along.mask),
        ),
        weights_are_tangents=tangents is not None,
    )
    pointers = (
        call.operands.offset.pointer,
        pointer_of(call.operands.mask),
        pointer_of(along.offset),
        pointer_of(along.mask),
        s.counts.pointer,
        s.cells.pointer,
        s.slots.pointer,
        s.weights.pointer,
    )
    call.launch("count_cells", call.samples(chunk), pointers, struct)
