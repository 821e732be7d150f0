"""Panels: boxes in runs, and the gradients that all of their positions add to.

Boxes add to the gradient of the images in their order, see ``Turns``. They leave their columns and
their share of grad_output side by side in a panel; when all of a panel are done, parts of the
gradient of the weight are worked out next to each other, each over all positions. Every sum has one
order, whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from cudeform.cpu.call import Array, Call
from cudeform.cpu.images import Images, channels_first, image_room
from cudeform.cpu.layouts import Rooms, SampleArrays, read_box
from cudeform.cpu.loops.arguments import Samples, Sizes
from cudeform.cpu.loops.vectors import VECTOR
from cudeform.cpu.products import add_grad_weight, taps_last, weight_parts
from cudeform.cpu.threads import Scratch, Turns
from cudeform.cpu.tiling import Box
from cudeform.partition import split

# Channels that a thread scatters in its turn, at least.
SCATTERED_CHANNELS = 16


@dataclass(frozen=True)
class Panel:
    """What the boxes of a panel leave behind.

    Attributes:
        box: all its positions.
        grad_output: (O, positions).
        bias: its sums over the positions of each box, (boxes, O).
        columns: flat; empty if the weight needs no gradient.
        samples: offset and mask, and their tangents if there are any.
    """

    box: Box
    grad_output: Array
    bias: Array
    columns: Array
    samples: tuple[Samples, ...]

    def part(self, box: Box) -> slice:
        """Where a box lies in it."""
        return slice(box.first - self.box.first, box.last - self.box.first)


@dataclass(frozen=True)
class PanelRoom:
    """Scratch memory for the panels of a call, flat.

    Attributes:
        arrays: whose planes they have.
        planes: copies of them, where loops need copies.
    """

    grad_output: Array
    columns: Array
    arrays: tuple[SampleArrays, ...]
    planes: tuple[Rooms, ...]

    @classmethod
    def of(cls, call: Call, arrays: tuple[SampleArrays, ...], *, columns: bool) -> PanelRoom:
        """Room for the largest panel of a call."""
        g = call.g
        positions = min(call.tiling.panel, call.tiling.images * g.out_pixels)
        size = positions * g.taps * g.channels
        return cls(
            grad_output=np.empty(positions * g.out_channels, call.dtype),
            columns=np.empty(size if columns else 0, call.dtype),
            arrays=arrays,
            planes=tuple(each.rooms(positions) for each in arrays),
        )

    def panel(self, call: Call, boxes: list[Box]) -> Panel:
        """The panel of some boxes."""
        box = Box(boxes[0].first, boxes[-1].last, boxes[0].images, boxes[0].index)
        grad_output = self.grad_output[: call.g.out_channels * len(box)]
        size = len(box) * call.g.taps * call.g.channels
        return Panel(
            box=box,
            grad_output=grad_output.reshape(call.g.out_channels, len(box)),
            bias=np.empty((len(boxes), call.g.out_channels), call.dtype),
            columns=self.columns[:size],
            samples=tuple(
                each.to_read(box, rooms)
                for each, rooms in zip(self.arrays, self.planes, strict=True)
            ),
        )

    def read(self, call: Call, grad_output: Array, box: Box, panel: Panel) -> None:
        """Copy what a box needs into its panel; sum its share of grad_output."""
        part = panel.grad_output[:, panel.part(box)]
        read_box(call.g, grad_output, box, part)
        np.sum(part, axis=1, out=panel.bias[box.index - panel.box.index])
        for each, rooms in zip(self.arrays, self.planes, strict=True):
            each.read(box, panel.box, rooms)


@dataclass(frozen=True)
class Sums:
    """Gradients that every position adds to, in the dtype of the arithmetic.

    Attributes:
        weight: taps first, or None.
        bias: (O,), or None.
        pixels: of the images that are laid out at a time, flat, or None.
    """

    weight: Array | None
    bias: Array | None
    pixels: Array | None

    @classmethod
    def zero(cls, call: Call, *, weight: bool, bias: bool, pixels: bool) -> Sums:
        """Sums of those gradients that are wanted."""
        return cls(
            weight=np.zeros_like(call.weight) if weight else None,
            bias=np.zeros(call.g.out_channels, call.dtype) if bias else None,
            pixels=image_room(call) if pixels else None,
        )

    def begin(self) -> None:
        """Forget the last images."""
        if self.pixels is not None:
            self.pixels[...] = 0

    def write_images(self, call: Call, images: Images, grad_input: Array | None) -> None:
        """Round the gradient of some images."""
        if self.pixels is not None and grad_input is not None:
            target = grad_input[images.images]
            channels_first(call, self.pixels[: target.size], target)

    def write_rest(self, call: Call, grad_weight: Array | None, grad_bias: Array | None) -> None:
        """Round the gradients of weight and bias."""
        if self.weight is not None and grad_weight is not None:
            grad_weight[...] = taps_last(call.g, self.weight)
        if self.bias is not None and grad_bias is not None:
            grad_bias[...] = self.bias


class Work(Protocol[Scratch]):
    """What is done with the boxes of a call."""

    def scratch(self) -> Scratch:
        """The memory of a thread."""

    def box(self, images: Images, box: Box, panel: Panel, scratch: Scratch) -> None:
        """Fill the part of a panel that belongs to a box, and write what belongs to it alone."""

    def scatter(
        self, box: Box, panel: Panel, scratch: Scratch, sizes: Sizes, part: slice, pixels: Array
    ) -> None:
        """Add some channels, whole runs of the length that ``sizes`` have, to the pixels."""


def work_through(
    call: Call,
    images: Images,
    grad_output: Array,
    room: PanelRoom,
    sums: Sums,
    work: Work[Scratch],
) -> None:
    """Work on all boxes of some images and add what they leave to the sums."""
    boxes = call.boxes(images.images)
    sizes, parts = scatter_parts(call.sizes, call.threads)
    turns = Turns(len(parts))
    for run in call.tiling.panels(boxes):
        panel = room.panel(call, run)

        def one(box: Box, scratch: Scratch, panel: Panel = panel) -> None:
            with turns.stopped_by_errors():
                room.read(call, grad_output, box, panel)
                work.box(images, box, panel, scratch)
                if sums.pixels is None:
                    return
                for which, part in enumerate(parts):
                    add = partial(work.scatter, box, panel, scratch, sizes, part, sums.pixels)
                    turns.take(which, box.index, add)

        call.run(one, run, work.scratch)
        _add_weight(call, panel, sums)
        if sums.bias is not None:
            sums.bias[...] += panel.bias.sum(axis=0)


def _add_weight(call: Call, panel: Panel, sums: Sums) -> None:
    """Add what a panel holds to the gradient of the weight."""
    if sums.weight is not None:
        columns = call.columns_of(panel.columns, len(panel.box))
        add = partial(add_grad_weight, call.g, panel.grad_output, columns, sums.weight)
        call.run(lambda part, _: add(part), weight_parts(call.g), lambda: None)


def scatter_parts(sizes: Sizes, threads: int) -> tuple[Sizes, list[slice]]:
    """Parts of the channels that a thread scatters in its turn, and sizes with runs that fit.

    Bits do not depend on them: each channel has the same order of sums.
    """
    run = sizes.run
    for length in range(SCATTERED_CHANNELS, run, VECTOR):
        if run % length == 0 and length * threads >= sizes.channels:
            run = length
            break
    count = sizes.channels // run
    parts = split(count, max(1, -(-count // threads)))
    return sizes._replace(run=run), [slice(a.start * run, a.stop * run) for a in parts]
