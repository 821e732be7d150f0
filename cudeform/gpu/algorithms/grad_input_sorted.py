"""The ordered gather: gradient of the input without atomics, the same bits run after run."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DeviceArray, Tangents
from cudeform.geometry import Geometry
from cudeform.gpu.call import THREADS, Call, pointer_of, strides_of
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.protocol import Memory

INT = 4
INDEX = 8  # bytes of an index, at most


@dataclass(frozen=True)
class Scratch:
    """Memory of the gather, for the largest chunk."""

    counts: Memory  # of each cell, then how much of the list is allotted
    starts: Memory
    cells: Memory
    slots: Memory
    weights: Memory
    listed: Memory
    ordered: Memory

    @classmethod
    def of(cls, call: Call, samples: int, cells: int) -> Scratch:
        """Memory for some samples and cells."""
        return cls(
            counts=call.allocate(cells + 1, INT),
            starts=call.allocate(cells, INT),
            cells=call.allocate(samples, INDEX),
            slots=call.allocate(samples, INT),
            weights=call.allocate(4 * samples, call.variant.acc_itemsize),
            listed=call.allocate(samples, INT),
            ordered=call.allocate(samples, INT),
        )


def sample_bytes(acc_itemsize: int) -> int:
    """Bytes of scratch memory for each sample."""
    return INDEX + 3 * INT + 4 * acc_itemsize


def image_bytes(g: Geometry) -> int:
    """Bytes of scratch memory for each image, and for what is allotted."""
    return 2 * INT * cells_of(g, 1) + INT


def cells_of(g: Geometry, images: int) -> int:
    """Cells of some images: squares between pixels, the outermost reaching beyond the image."""
    return images * g.offset_groups * (g.in_h + 1) * (g.in_w + 1)


def gather(
    call: Call,
    chunk: Chunk,
    images: DeviceArray,
    columns: Memory,
    grad_images: Memory,
    scratch: Scratch,
    *,
    accumulate: bool,
    along: Tangents | None = None,
) -> None:
    """Turn the gradient of the columns into that of the channels-last input.

    Args:
        call: the call.
        chunk: what the columns cover.
        images: the images that they were sampled from.
        columns: their gradient.
        grad_images: dense channels-last images that are written.
        scratch: memory.
        accumulate: add to what is there.
        along: tangents of offset and mask: the corners' weights are their changes along these.
    """
    g, offset, mask = call.g, call.operands.offset, call.operands.mask
    tangents = Tangents() if along is None else along
    fields = call.chunk_fields(chunk, images) | {
        "accumulate": accumulate,
        "weights_are_tangents": along is not None,
        "zero_boundary_grad": call.zero_boundary_grad,
        "offset_tangent": strides_of(tangents.offset),
        "mask_tangent": strides_of(tangents.mask),
    }
    samples, cells = call.samples(chunk), cells_of(g, chunk.count)
    counts, starts = scratch.counts.pointer, scratch.starts.pointer
    total = counts + cells * INT
    call.device.fill_zero(counts, (cells + 1) * INT)
    call.launch(
        "count_cells",
        samples,
        (
            offset.pointer,
            pointer_of(mask),
            pointer_of(tangents.offset),
            pointer_of(tangents.mask),
            counts,
            scratch.cells.pointer,
            scratch.slots.pointer,
            scratch.weights.pointer,
        ),
        fields,
    )
    call.launch(
        "scan_cells", cells, (counts, starts, total), fields, shared_bytes=(THREADS + 1) * INT
    )
    call.launch(
        "fill_cells",
        samples,
        (scratch.cells.pointer, scratch.slots.pointer, starts, scratch.listed.pointer),
        fields,
    )
    call.launch(
        "sort_cells",
        samples,
        (
            scratch.cells.pointer,
            counts,
            starts,
            scratch.listed.pointer,
            scratch.ordered.pointer,
        ),
        fields,
    )
    call.launch(
        "gather_grad_input",
        chunk.count * g.in_pixels * g.offset_groups * call.lanes(),
        (
            columns.pointer,
            counts,
            starts,
            scratch.ordered.pointer,
            scratch.weights.pointer,
            grad_images.pointer,
        ),
        fields,
    )
