"""The gradient of the input of a sum, by atomics or by a sorted gather, and its chunks.

Atomics add directly to the result if it has accumulation precision, otherwise to workspace. So a
call with float32 or float64 arrays needs no workspace without ``deterministic``. For any chunks,
the gather adds the samples of a pixel in the same order; see ``grad_input_sorted``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DeviceArray, Tangents
from cudeform.gpu.algorithms import uses_gather
from cudeform.gpu.algorithms.grad_input_sorted import (
    INT_BYTES,
    Scratch,
    scratch_costs_of,
    sort_samples,
)
from cudeform.gpu.algorithms.sums import SumCall
from cudeform.gpu.call import pointer_of
from cudeform.gpu.chunks import budget_of, max_samples, most_that_fit
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import sums_params
from cudeform.gpu.device_api.commands import FillZero
from cudeform.gpu.device_api.protocol import Memory
from cudeform.gpu.device_api.sums_sizes import (
    SumTangentStrides,
    cells_of_image,
    channel_strides,
    pixel_strides,
    position_strides,
)
from cudeform.options import Options
from cudeform.partition import split

CORNERS = 4


@dataclass(frozen=True)
class SumChunk:
    """The images, or positions of one image, that one pass of a call processes.

    Attributes:
        images: the images.
        positions: the positions, numbered through all images.
        is_first: whether this is the first chunk of its images.
        is_last: whether this is the last chunk of its images.
    """

    images: slice
    positions: slice
    is_first: bool = True
    is_last: bool = True

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.images.stop - self.images.start)

    @property
    def size(self) -> int:
        """Number of positions."""
        return int(self.positions.stop - self.positions.start)


def cut(call: SumCall, options: Options, costs: Costs, *, counts_samples: bool) -> list[SumChunk]:
    """Cut a call into chunks whose workspace fits the budget.

    Args:
        call: the call.
        options: the options in force.
        costs: workspace of an image and of a position.
        counts_samples: whether the samples of a chunk must have 32-bit numbers.

    Raises:
        ValueError: not even one position of one image fits ``options.workspace_limit``.
    """
    g = call.g
    in_image = g.out[0] * g.out[1]
    required = costs.image + costs.position
    budget = budget_of(call.device, options, required)
    if budget < required:
        raise ValueError(
            f"workspace_limit must be at least {required} bytes for this call (one image and one "
            f"position of the output), got {budget}"
        )
    most_positions = max_samples(axes=2) // (g.taps * g.groups) if counts_samples else 2**63
    image_bytes = costs.image + in_image * costs.position
    if image_bytes <= budget and in_image <= most_positions:
        images = most_that_fit(budget, image_bytes, most_positions // in_image)
        return [
            SumChunk(part, slice(part.start * in_image, part.stop * in_image))
            for part in split(g.batch, images)
        ]
    parts = split(in_image, most_that_fit(budget - costs.image, costs.position, most_positions))
    return [
        SumChunk(
            slice(image, image + 1),
            slice(image * in_image + part.start, image * in_image + part.stop),
            is_first=part is parts[0],
            is_last=part is parts[-1],
        )
        for image in range(g.batch)
        for part in parts
    ]


@dataclass(frozen=True)
class SumGradInput:
    """The gradient of the images of a chunk.

    Attributes:
        call: the call.
        result: the gradient of the input, contiguous.
        images: sums of the images of one chunk; None if the result has their precision.
        scratch: memory of the sorted gather; None with atomics.
    """

    call: SumCall
    result: DeviceArray
    images: Memory | None
    scratch: Scratch | None

    @classmethod
    def of(
        cls, call: SumCall, options: Options, result: DeviceArray | None
    ) -> tuple[list[SumChunk], SumGradInput | None]:
        """The chunks of the call, and memory for the largest; None without a gradient."""
        g, acc = call.g, call.variant.acc_itemsize
        costs, samples, cells = Costs(), g.taps * g.groups, g.groups * cells_of_image(g)
        if result is None:
            return cut(call, options, costs, counts_samples=False), None
        is_rounded, sorts = acc != call.itemsize, uses_gather(options)
        if is_rounded:
            costs += Costs(image=_elements(call) * acc)
        if sorts:
            costs += scratch_costs_of(cells, samples, CORNERS * acc)
        chunks = cut(call, options, costs, counts_samples=sorts)
        count, size = max(c.count for c in chunks), max(c.size for c in chunks)
        grad_input = cls(
            call=call,
            result=result,
            images=call.allocate(count * _elements(call), acc) if is_rounded else None,
            scratch=Scratch.for_sizes(call, size * samples, count * cells) if sorts else None,
        )
        return chunks, grad_input

    def before_kernel(
        self, chunk: SumChunk, grad_output: DeviceArray, tangents: Tangents | None = None
    ) -> int:
        """Gather, or zero the images for the atomics of the next kernel.

        Args:
            chunk: the chunk.
            grad_output: the gradient of the output.
            tangents: tangents of offset and mask. If given, the tangent of each corner weight
                replaces the weight.

        Returns:
            The pointer to the images that the next kernel adds to; 0 if the gather has written
            them.
        """
        if self.scratch is not None:
            self._gather(chunk, grad_output, self.scratch, tangents)
            return 0
        nbytes = chunk.count * _elements(self.call) * self.call.variant.acc_itemsize
        if nbytes:  # only the gather has chunks smaller than an image
            self.call.device.queue(FillZero(nbytes), [self._pointer(chunk)])
        return self._pointer(chunk)

    def after_kernel(self, chunk: SumChunk) -> None:
        """Write the result if this was the last chunk of its images."""
        call, vector = self.call, self.call.variant.vector
        if self.images is not None and chunk.is_last:
            vectors = chunk.count * _elements(call) // vector
            pointers = (self.images.pointer, self._result_pointer(chunk))
            call.launch("round_grad_input", vectors, pointers, sums_params.RoundGradInput(vectors))

    def _pointer(self, chunk: SumChunk) -> int:
        return self._result_pointer(chunk) if self.images is None else self.images.pointer

    def _result_pointer(self, chunk: SumChunk) -> int:
        first = int(chunk.images.start) * _elements(self.call)
        return self.result.pointer + first * self.call.itemsize

    def _gather(
        self, chunk: SumChunk, grad_output: DeviceArray, s: Scratch, tangents: Tangents | None
    ) -> None:
        call, g = self.call, self.call.g
        cells = chunk.count * g.groups * cells_of_image(g)
        samples = chunk.size * g.groups * g.taps
        call.fill_zero(s.counts, cells + 1, INT_BYTES)
        self._count(chunk, s, samples, tangents)
        sort_samples(call, s, samples, cells)
        add = (s.counts, s.starts, s.ordered, s.weights)
        call.launch(
            "gather_sum_grad_input",
            chunk.count * g.pixels * g.groups * call.problem.lanes,
            (grad_output.pointer, *(memory.pointer for memory in add), self._pointer(chunk)),
            sums_params.GatherSumGradInput(
                sampling=call.sampling(chunk.positions),
                grad_output=channel_strides(grad_output),
                images=chunk.count,
                accumulate=not chunk.is_first,
            ),
        )

    def _count(self, chunk: SumChunk, s: Scratch, samples: int, tangents: Tangents | None) -> None:
        """Find the cell of each sample, and count the samples of each cell."""
        call, along = self.call, Tangents() if tangents is None else tangents
        struct = sums_params.CountSumCells(
            sampling=call.sampling(chunk.positions),
            tangents=tangent_strides(call, along),
            first_image=chunk.images.start,
            weights_are_tangents=tangents is not None,
        )
        pointers = (
            call.operands.offset.pointer,
            call.operands.mask.pointer,
            pointer_of(along.offset),
            pointer_of(along.mask),
            s.counts.pointer,
            s.cells.pointer,
            s.slots.pointer,
            s.weights.pointer,
        )
        call.launch("count_sum_cells", samples, pointers, struct)


def _elements(call: SumCall) -> int:
    """Number of elements of an image."""
    return call.g.pixels * call.g.groups * call.g.channels


def tangent_strides(call: SumCall, tangents: Tangents) -> SumTangentStrides:
    """Strides of the tangents, for a kernel that reads them."""
    return SumTangentStrides(
        input=pixel_strides(call.g, tangents.input),
        offset=position_strides(tangents.offset),
        mask=position_strides(tangents.mask),
    )
