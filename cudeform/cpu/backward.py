"""Backward: for each box, the gradient of its columns, then the gradients of the operands."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import Gradients, Operands
from cudeform.cpu.call import Array, Call
from cudeform.cpu.images import Images, channels_last
from cudeform.cpu.layouts import Buffers, SampleArrays, column_layout
from cudeform.cpu.loops.arguments import Sizes
from cudeform.cpu.loops.gather import gather_columns
from cudeform.cpu.loops.gradients import sample_gradients
from cudeform.cpu.loops.scatter import scatter
from cudeform.cpu.panels import Accumulators, Panel, PanelBuffers, process_panels
from cudeform.cpu.products import grad_columns_of
from cudeform.cpu.threads import blas_on_one_thread
from cudeform.cpu.tiling import Box, Costs
from cudeform.geometry import Geometry
from cudeform.options import Options


def costs(g: Geometry, itemsize: int) -> Costs:
    """Scratch memory of a backward call that computes on numbers of ``itemsize`` bytes."""
    columns, planes = g.taps * g.channels, (g.axes + 1) * g.taps * g.offset_groups
    weight = g.out_channels * g.taps * (g.channels // g.groups)
    return Costs(
        image=2 * g.channels * g.in_pixels * itemsize,
        fixed=3 * weight * itemsize,
        panel_position=(columns + planes + g.out_channels) * itemsize,
        box_position=(columns + planes) * itemsize,
    )


def backward(
    operands: Operands, g: Geometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    call = Call.of(operands, g, options, costs)
    sums = Accumulators.zero(
        call,
        weight=grads.weight is not None,
        bias=grads.bias is not None,
        pixels=grads.input is not None,
    )
    buffers = PanelBuffers.of(call, (call.samples,), columns=grads.weight is not None)
    by_sample = SampleArrays.of(g, grads.offset, grads.mask, call.dtype)
    work = _Work(call, by_sample, grad_input=grads.input is not None)
    with blas_on_one_thread():
        for images in channels_last(call, operands.input):
            sums.begin()
            process_panels(call, images, grad_output, buffers, sums, work)
            sums.write_images(call, images, grads.input)
    sums.write_weight_and_bias(call, grads.weight, grads.bias)


@dataclass(frozen=True)
class _Scratch:
    """Scratch memory of one thread.

    Attributes:
        grad_columns: gradient of the columns of a box, flat.
        planes: buffers for the gradients of offset and mask.
    """

    grad_columns: Array
    planes: Buffers


@dataclass(frozen=True)
class _Work:
    """The work of the backward on each box.

    Attributes:
        call: the call.
        grads: gradients of offset and mask.
        grad_input: whether to compute the gradient of the images.
    """

    call: Call
    grads: SampleArrays
    grad_input: bool

    def scratch(self) -> _Scratch:
        return _Scratch(
            self.call.allocate_columns(), self.grads.buffers(self.call.tiling.positions)
        )

    def box(self, images: Images, box: Box, panel: Panel, scratch: _Scratch) -> None:
        call = self.call
        if self.grads.present or self.grad_input:
            target = call.view_columns(scratch.grad_columns, len(box))
            grad_columns_of(call.g, call.weight, panel.grad_output[:, panel.part(box)], target)
        samples, positions = panel.samples[0], (box.first, box.last)
        if self.grads.present:
            sample_gradients(
                call.sizes,
                *positions,
                images.pixels,
                samples,
                scratch.grad_columns,
                column_layout(box),
                self.grads.for_writing(box, scratch.planes),
                call.options.boundary_grad == "zero",
                panel.columns,
                column_layout(panel.box),
            )
            self.grads.write(box, box, scratch.planes)
        elif len(panel.columns):
            pixels, layout = images.pixels, column_layout(panel.box)
            gather_columns(call.sizes, *positions, pixels, samples, panel.columns, layout)

    def scatter(
        self, box: Box, panel: Panel, scratch: _Scratch, sizes: Sizes, part: slice, pixels: Array
    ) -> None:
        scatter(
            sizes,
            box.first,
            box.last,
            part.start,
            part.stop,
            panel.samples[0],
            scratch.grad_columns,
            column_layout(box),
            pixels,
        )
