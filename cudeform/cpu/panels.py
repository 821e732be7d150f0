"""Panels, which are runs of boxes, and the gradients to which all positions contribute.

Boxes add to the gradient of the images in their order, see ``OrderedAccumulator``. Each box stores
its columns and its part of grad_output in the panel. When all boxes of a panel are done, the
gradient of the weight is computed in parts, in parallel, each part over all positions of the panel.
Every sum has a fixed order for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from cudeform.cpu.call import Array, Call
from cudeform.cpu.images import Images, allocate_images, channels_first
from cudeform.cpu.layouts import Buffers, SampleArrays, read_box
from cudeform.cpu.loops.arguments import Samples, Sizes
from cudeform.cpu.loops.vectors import VECTOR
from cudeform.cpu.products import add_grad_weight, taps_last, weight_parts
from cudeform.cpu.threads import OrderedAccumulator, Scratch
from cudeform.cpu.tiling import Box
from cudeform.partition import split

# Minimum number of channels that a thread scatters without waiting for another thread.
SCATTERED_CHANNELS = 16


@dataclass(frozen=True)
class Panel:
    """The data that the boxes of a panel store.

    Attributes:
        box: all positions of the panel, as one box.
        grad_output: grad_output at these positions, (O, positions).
        bias: sums of grad_output over the positions of each box, (boxes, O).
        columns: the columns, flat; empty if the weight needs no gradient.
        samples: offset and mask, then their tangents if there are any.
    """

    box: Box
    grad_output: Array
    bias: Array
    columns: Array
    samples: tuple[Samples, ...]

    def part(self, box: Box) -> slice:
        """The positions of a box as a slice of the panel's positions."""
        return slice(box.first - self.box.first, box.last - self.box.first)


@dataclass(frozen=True)
class PanelBuffers:
    """Flat scratch memory for the panels of a call.

    Attributes:
        grad_output: buffer for grad_output.
        columns: buffer for the columns.
        arrays: the arrays from which a panel takes its samples.
        planes: buffers for copies of their planes, if the loops need copies.
    """

    grad_output: Array
    columns: Array
    arrays: tuple[SampleArrays, ...]
    planes: tuple[Buffers, ...]

    @classmethod
    def of(cls, call: Call, arrays: tuple[SampleArrays, ...], *, columns: bool) -> PanelBuffers:
        """Allocate memory for the largest panel of a call."""
        g = call.g
        positions = min(call.tiling.panel, call.tiling.images * g.out_pixels)
        size = positions * g.taps * g.channels
        return cls(
            grad_output=np.empty(positions * g.out_channels, call.dtype),
            columns=np.empty(size if columns else 0, call.dtype),
            arrays=arrays,
            planes=tuple(each.buffers(positions) for each in arrays),
        )

    def panel(self, call: Call, boxes: list[Box]) -> Panel:
        """The panel of a run of boxes, in this memory."""
        box = Box(boxes[0].first, boxes[-1].last, boxes[0].images, boxes[0].index)
        grad_output = self.grad_output[: call.g.out_channels * len(box)]
        size = len(box) * call.g.taps * call.g.channels
        return Panel(
            box=box,
            grad_output=grad_output.reshape(call.g.out_channels, len(box)),
            bias=np.empty((len(boxes), call.g.out_channels), call.dtype),
            columns=self.columns[:size],
            samples=tuple(
                each.for_reading(box, buffers)
                for each, buffers in zip(self.arrays, self.planes, strict=True)
            ),
        )

    def read(self, call: Call, grad_output: Array, box: Box, panel: Panel) -> None:
        """Copy a box's samples and grad_output into its panel; sum its part of grad_output."""
        part = panel.grad_output[:, panel.part(box)]
        read_box(call.g, grad_output, box, part)
        np.sum(part, axis=1, out=panel.bias[box.index - panel.box.index])
        for each, buffers in zip(self.arrays, self.planes, strict=True):
            each.read(box, panel.box, buffers)


@dataclass(frozen=True)
class Accumulators:
    """Accumulators, in the compute dtype, of the gradients to which every position contributes.

    Attributes:
        weight: gradient of the weight, taps first, or None.
        bias: gradient of the bias, (O,), or None.
        pixels: gradient of the current channels-last images, flat, or None.
    """

    weight: Array | None
    bias: Array | None
    pixels: Array | None

    @classmethod
    def zero(cls, call: Call, *, weight: bool, bias: bool, pixels: bool) -> Accumulators:
        """Make zeroed accumulators for the gradients that are requested."""
        return cls(
            weight=np.zeros_like(call.weight) if weight else None,
            bias=np.zeros(call.g.out_channels, call.dtype) if bias else None,
            pixels=allocate_images(call) if pixels else None,
        )

    def begin(self) -> None:
        """Set the gradient of the images to 0."""
        if self.pixels is not None:
            self.pixels[...] = 0

    def write_images(self, call: Call, images: Images, grad_input: Array | None) -> None:
        """Round the gradient of the current images and write it to ``grad_input``."""
        if self.pixels is not None and grad_input is not None:
            target = grad_input[images.images]
            channels_first(call, self.pixels[: target.size], target)

    def write_weight_and_bias(
        self, call: Call, grad_weight: Array | None, grad_bias: Array | None
    ) -> None:
        """Round the gradients of weight and bias and write them to the caller's arrays."""
        if self.weight is not None and grad_weight is not None:
            grad_weight[...] = taps_last(call.g, self.weight)
        if self.bias is not None and grad_bias is not None:
            grad_bias[...] = self.bias


class Work(Protocol[Scratch]):
    """The work of an operation on the boxes of a call."""

    def scratch(self) -> Scratch:
        """Allocate the scratch memory of one thread."""

    def box(self, images: Images, box: Box, panel: Panel, scratch: Scratch) -> None:
        """Fill a box's part of the panel, and write the results that depend on this box alone."""

    def scatter(
        self, box: Box, panel: Panel, scratch: Scratch, sizes: Sizes, part: slice, pixels: Array
    ) -> None:
        """Accumulate a range of channels, in whole runs of ``sizes.run``, into the pixels."""


def process_panels(
    call: Call,
    images: Images,
    grad_output: Array,
    buffers: PanelBuffers,
    sums: Accumulators,
    work: Work[Scratch],
) -> None:
    """Process all boxes of a range of images, panel by panel, and accumulate into ``sums``."""
    boxes = call.boxes(images.images)
    sizes, parts = scatter_parts(call.sizes, call.threads)
    accumulator = OrderedAccumulator(len(parts))
    for run in call.tiling.panels(boxes):
        panel = buffers.panel(call, run)

        def process_box(box: Box, scratch: Scratch, panel: Panel = panel) -> None:
            with accumulator.stopped_by_errors():
                buffers.read(call, grad_output, box, panel)
                work.box(images, box, panel, scratch)
                if sums.pixels is None:
                    return
                for index, part in enumerate(parts):
                    add = partial(work.scatter, box, panel, scratch, sizes, part, sums.pixels)
                    accumulator.add_in_order(index, box.index, add)

        call.run(process_box, run, work.scratch)
        _add_weight(call, panel, sums)
        if sums.bias is not None:
            sums.bias[...] += panel.bias.sum(axis=0)


def _add_weight(call: Call, panel: Panel, sums: Accumulators) -> None:
    """Accumulate a panel's contribution to the gradient of the weight."""
    if sums.weight is not None:
        columns = call.view_columns(panel.columns, len(panel.box))
        add = partial(add_grad_weight, call.g, panel.grad_output, columns, sums.weight)
        call.run(lambda part, _: add(part), weight_parts(call.g), lambda: None)


def scatter_parts(sizes: Sizes, threads: int) -> tuple[Sizes, list[slice]]:
    """The channel ranges that are scattered one at a time, and sizes whose runs fit them.

    The ranges do not change the result: the order of sums in a channel is the same for any ranges.
    """
    run = sizes.run
    for length in range(SCATTERED_CHANNELS, run, VECTOR):
        if run % length == 0 and length * threads >= sizes.channels:
            run = length
            break
    count = sizes.channels // run
    parts = split(count, max(1, -(-count // threads)))
    return sizes._replace(run=run), [slice(a.start * run, a.stop * run) for a in parts]
