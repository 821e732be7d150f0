"""Backward: the gradient of a box's columns, and from it those of all that they came from."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import Gradients, Operands
from cudeform.cpu.call import Array, Call
from cudeform.cpu.images import Images, channels_last
from cudeform.cpu.layouts import Rooms, SampleArrays
from cudeform.cpu.loops.coordinates import Sizes
from cudeform.cpu.loops.gradients import sample_gradients
from cudeform.cpu.loops.sampling import scatter
from cudeform.cpu.panels import Panel, PanelRoom, Sums, work_through
from cudeform.cpu.products import grad_columns_of
from cudeform.cpu.threads import blas_on_one_thread
from cudeform.cpu.tiling import Box, Costs
from cudeform.geometry import Geometry
from cudeform.options import Options


def costs(g: Geometry, itemsize: int) -> Costs:
    """Scratch memory of a backward call whose arithmetic has numbers of ``itemsize`` bytes."""
    columns, planes = g.taps * g.channels, 3 * g.taps * g.offset_groups
    weight = g.out_channels * g.taps * (g.channels // g.groups)
    return Costs(
        image=2 * g.channels * g.in_pixels * itemsize,
        fixed=3 * weight * itemsize,
        kept=(2 * columns + planes + g.out_channels) * itemsize,
        position=(planes + g.out_channels) * itemsize,
    )


def backward(
    operands: Operands, g: Geometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    call = Call.of(operands, g, options, costs)
    sums = Sums.zero(
        call,
        weight=grads.weight is not None,
        bias=grads.bias is not None,
        pixels=grads.input is not None,
    )
    through_columns = not (grads.input is grads.offset is grads.mask is None)
    room = PanelRoom.of(
        call,
        (call.samples,),
        columns=grads.weight is not None,
        grad_columns=int(through_columns),
    )
    work = _Work(call, SampleArrays.of(g, grads.offset, grads.mask, call.dtype))
    with blas_on_one_thread():
        for images in channels_last(call, operands.input):
            sums.begin()
            work_through(call, images, grad_output, room, sums, work)
            sums.write_images(call, images, grads.input)
    sums.write_rest(call, grads.weight, grads.bias)


@dataclass(frozen=True)
class _Work:
    """What is done with boxes and panels; a thread's memory is for copies of gradients.

    Attributes:
        call: the call.
        grads: gradients of offset and mask.
    """

    call: Call
    grads: SampleArrays

    def scratch(self) -> Rooms:
        return self.grads.rooms(self.call.tiling.positions)

    def box(self, images: Images, box: Box, panel: Panel, rooms: Rooms) -> None:
        call = self.call
        grad_columns = panel.columns[:0]
        if panel.grad_columns:
            (grad_columns,) = panel.grad_columns
            part = panel.part(box)
            target = call.columns_of(grad_columns, len(panel.box))[:, part]
            grad_columns_of(call.g, call.weight, panel.grad_output[:, part], target)
        sample_gradients(
            call.sizes,
            box.first,
            box.last,
            images.pixels,
            panel.samples[0],
            grad_columns,
            self.grads.to_write(box, rooms),
            call.options.boundary_grad == "zero",
            panel.columns,
            panel.at,
        )
        self.grads.write(box, box, rooms)

    def scatter(self, panel: Panel, sizes: Sizes, channels: slice, pixels: Array) -> None:
        scatter(
            sizes,
            panel.box.first,
            panel.box.last,
            channels.start,
            channels.stop,
            panel.samples[0],
            panel.grad_columns[0],
            panel.at,
            pixels,
        )
