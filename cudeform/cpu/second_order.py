"""Forward mode, and gradients of gradients.

With the gradients ``G = backward(c)`` and their cotangents ``v``,

    sum(v * G) = sum(c * jvp(v)),

so both follow from the tangent of the columns, see ``loops/tangents.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DoubleGradients, Operands, Tangents
from cudeform.cpu.call import Array, Call
from cudeform.cpu.images import Images
from cudeform.cpu.layouts import Buffers, SampleArrays, column_layout
from cudeform.cpu.loops.arguments import Sizes
from cudeform.cpu.loops.scatter import scatter
from cudeform.cpu.loops.second_gradients import second_sample_gradients
from cudeform.cpu.loops.tangents import scatter_tangents
from cudeform.cpu.panels import Accumulators, Panel, PanelBuffers, process_panels
from cudeform.cpu.products import grad_columns_of
from cudeform.cpu.tangent_call import ImagePair, OutputScratch, TangentCall
from cudeform.cpu.threads import blas_on_one_thread
from cudeform.cpu.tiling import Box, Costs
from cudeform.geometry import Geometry
from cudeform.options import Options


def costs(g: Geometry, itemsize: int) -> Costs:
    """Scratch memory of a call that computes on numbers of ``itemsize`` bytes."""
    columns, planes = g.taps * g.channels, (g.axes + 1) * g.taps * g.offset_groups
    weight = g.out_channels * g.taps * (g.channels // g.groups)
    return Costs(
        image=3 * g.channels * g.in_pixels * itemsize,
        fixed=4 * weight * itemsize,
        panel_position=(columns + 2 * planes + g.out_channels) * itemsize,
        box_position=(3 * columns + 3 * planes + 3 * g.out_channels) * itemsize,
    )


def jvp(
    operands: Operands, g: Geometry, options: Options, tangents: Tangents, result: Array
) -> None:
    """Write the tangent of the output; a tangent that is None is zero."""
    call = Call.of(operands, g, options, costs)
    tangent_call = TangentCall.of(call, tangents)
    with blas_on_one_thread():
        for pair in tangent_call.pairs():

            def work(box: Box, memory: _JvpScratch, pair: ImagePair = pair) -> None:
                tangent_call.samples.read(box, box, memory.sample_tangents)
                call.samples.read(box, box, memory.planes)
                samples = call.samples.for_reading(box, memory.planes)
                sample_tangents = tangent_call.samples.for_reading(box, memory.sample_tangents)
                tangent_call.gather(
                    pair, box, samples, sample_tangents, memory.tangent, column_layout(box)
                )
                columns = call.view_columns(memory.tangent, len(box))
                tangent_call.write_output(pair, box, samples, columns, memory.output, result)

            call.run(
                work, call.boxes(pair.images.images), lambda: _JvpScratch.of(call, tangent_call)
            )


def double_backward(
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: Array,
    cotangents: Tangents,
    results: DoubleGradients,
) -> None:
    """Write the gradients of ``sum(cotangents * backward(...))`` into ``results``."""
    call = Call.of(operands, g, options, costs)
    tangent_call = TangentCall.of(call, cotangents)
    sums = Accumulators.zero(
        call, weight=results.weight is not None, bias=False, pixels=results.input is not None
    )
    columns = results.weight is not None or results.grad_output is not None
    buffers = PanelBuffers.of(call, (call.samples, tangent_call.samples), columns=columns)
    grads = SampleArrays.of(g, results.offset, results.mask, call.dtype)
    with blas_on_one_thread():
        for pair in tangent_call.pairs():
            work = _Work(
                tangent_call, pair, grads, results.grad_output, grad_input=results.input is not None
            )
            sums.begin()
            process_panels(call, pair.images, grad_output, buffers, sums, work)
            sums.write_images(call, pair.images, results.input)
    sums.write_weight_and_bias(call, results.weight, None)


@dataclass(frozen=True)
class _JvpScratch:
    """Scratch memory of one thread in forward mode."""

    tangent: Array
    output: OutputScratch
    planes: Buffers
    sample_tangents: Buffers

    @classmethod
    def of(cls, call: Call, tangent_call: TangentCall) -> _JvpScratch:
        return cls(
            call.allocate_columns(),
            OutputScratch.of(tangent_call),
            call.samples.buffers(call.tiling.positions),
            tangent_call.samples.buffers(call.tiling.positions),
        )


@dataclass(frozen=True)
class _Scratch:
    """Scratch memory of one thread in the double backward.

    Attributes:
        grad_columns: products of grad_output with the weight and with its tangent, flat.
        planes: buffers for the gradients of offset and mask.
        output: memory for the tangent of the output.
    """

    grad_columns: tuple[Array, ...]
    planes: Buffers
    output: OutputScratch


@dataclass(frozen=True)
class _Work:
    """The work of the double backward on each box.

    Attributes:
        direction: a call and the cotangents of its gradients.
        pair: the current images and their tangents.
        grads: gradients of offset and mask.
        grad_output: gradient of grad_output, or None.
        grad_input: whether to compute the gradient of the images.
    """

    tangent_call: TangentCall
    pair: ImagePair
    grads: SampleArrays
    grad_output: Array | None
    grad_input: bool

    @property
    def zero_boundary_grad(self) -> bool:
        """Whether a sample with a coordinate of exactly -1 has a zero gradient of its offset."""
        return self.tangent_call.call.options.boundary_grad == "zero"

    def scratch(self) -> _Scratch:
        call = self.tangent_call.call
        return _Scratch(
            tuple(call.allocate_columns() for _ in self.tangent_call.weights),
            self.grads.buffers(call.tiling.positions),
            OutputScratch.of(self.tangent_call),
        )

    def box(self, images: Images, box: Box, panel: Panel, scratch: _Scratch) -> None:
        call, part = self.tangent_call.call, panel.part(box)
        samples, sample_tangents = panel.samples
        if len(panel.columns):
            layout = column_layout(panel.box)
            self.tangent_call.gather(
                self.pair, box, samples, sample_tangents, panel.columns, layout
            )
            if self.grad_output is not None:
                columns = call.view_columns(panel.columns, len(panel.box))[:, part]
                self.tangent_call.write_output(
                    self.pair, box, samples, columns, scratch.output, self.grad_output
                )
        if not (self.grads.present or self.grad_input):
            return
        for weight, flat in zip(self.tangent_call.weights, scratch.grad_columns, strict=True):
            target = call.view_columns(flat, len(box))
            grad_columns_of(call.g, weight, panel.grad_output[:, part], target)
        if not self.grads.present:
            return
        grad_columns, *tangent_grad_columns = scratch.grad_columns
        second_sample_gradients(
            call.sizes,
            box.first,
            box.last,
            images.pixels,
            self.pair.tangent,
            samples,
            sample_tangents,
            grad_columns,
            tangent_grad_columns[0] if tangent_grad_columns else grad_columns[:0],
            column_layout(box),
            self.grads.for_writing(box, scratch.planes),
            self.zero_boundary_grad,
        )
        self.grads.write(box, box, scratch.planes)

    def scatter(
        self, box: Box, panel: Panel, scratch: _Scratch, sizes: Sizes, part: slice, pixels: Array
    ) -> None:
        samples, sample_tangents = panel.samples
        grad_columns, *tangent_grad_columns = scratch.grad_columns
        positions, layout = (box.first, box.last, part.start, part.stop), column_layout(box)
        scatter_tangents(
            sizes,
            *positions,
            samples,
            sample_tangents,
            self.zero_boundary_grad,
            grad_columns,
            layout,
            pixels,
        )
        for second in tangent_grad_columns:
            scatter(sizes, *positions, samples, second, layout, pixels)
