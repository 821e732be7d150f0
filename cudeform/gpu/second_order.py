"""The gradients of the gradients on a device.

``cpu/double.py`` says where the formulas come from: they are the gradients of
``sum(grad_output * tangent of the output)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DeviceArray, DoubleGradients, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.gpu import products
from cudeform.gpu.algorithms import uses_gather
from cudeform.gpu.algorithms.grad_input import InputSums
from cudeform.gpu.backward import zero
from cudeform.gpu.call import most_positions, pointer_of, row_of
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.layouts import ChannelsLast, unpack_weight
from cudeform.gpu.tangent import Direction, Images
from cudeform.options import Options


def double_backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    cotangents: Tangents,
    results: DoubleGradients,
) -> None:
    """Queue the gradients of ``sum(cotangents * backward(...))`` into ``results``, contiguous."""
    wanted = [result for result in results if result is not None]
    if 0 in g.output_shape:
        zero(device, wanted)
    elif wanted:
        ordered = uses_gather(options) and results.input is not None
        direction = Direction.of(
            device, operands, g, options, cotangents, (grad_output,), ordered=ordered
        )
        _Double.of(direction, grad_output, results).run()


@dataclass(frozen=True)
class _Double:
    direction: Direction
    results: DoubleGradients
    grad_output: ChannelsLast
    others: Memory | None  # gradient of the columns that meets the weight's tangent
    grad_weight: Memory | None
    sums: InputSums | None  # of the input's gradient

    @classmethod
    def of(
        cls, direction: Direction, grad_output: DeviceArray, results: DoubleGradients
    ) -> _Double:
        call = direction.call
        g, pieces, acc = call.g, direction.pieces, call.variant.acc_itemsize
        positions = most_positions(g, pieces)
        return cls(
            direction=direction,
            results=results,
            grad_output=ChannelsLast(call, grad_output, positions, dense=True),
            others=(
                None
                if direction.weight_tangent is None
                else call.allocate(positions * row_of(g, call.operands))
            ),
            grad_weight=(
                None
                if results.weight is None
                else call.allocate(g.out_channels * call.leading, acc)
            ),
            sums=(
                None
                if results.input is None
                else InputSums.of(call, pieces, direction.options, results.input)
            ),
        )

    def run(self) -> None:
        direction, results = self.direction, self.results
        for chunk, images in direction.places():
            grad_output = self.grad_output.part(chunk.images, chunk.rows).pointer
            if results.input is results.offset is results.mask is None:
                direction.im2col(chunk, images)
            else:
                self._grad_columns(chunk, grad_output)
                self._pull(chunk, images)
            if self.grad_weight is not None:
                products.grad_weight(
                    direction.call,
                    chunk,
                    direction.columns.pointer,
                    grad_output,
                    self.grad_weight.pointer,
                    add=chunk is not direction.pieces[0],
                    allow_tf32=direction.options.allow_tf32,
                )
            if results.grad_output is not None:
                direction.output(chunk, images, results.grad_output)
        if self.grad_weight is not None:
            unpack_weight(direction.call, self.grad_weight, results.weight, None)

    def _grad_columns(self, chunk: Chunk, grad_output: int) -> None:
        direction = self.direction
        call, tf32 = direction.call, direction.options.allow_tf32
        columns = direction.columns.pointer
        products.grad_columns(call, chunk, grad_output, direction.weight.pointer, columns, tf32)
        if direction.weight_tangent is not None and self.others is not None:
            weight, others = direction.weight_tangent.pointer, self.others.pointer
            products.grad_columns(call, chunk, grad_output, weight, others, tf32)

    def _pull(self, chunk: Chunk, images: Images) -> None:
        """From the gradients of the columns to those of input, offset and mask, and the tangent."""
        direction, results = self.direction, self.results
        call, scatter = direction.call, 0
        if self.sums is not None:
            scatter = self.sums.begin(
                chunk, images.here, direction.columns, direction.tangents, self.others
            )
        kept = self.grad_weight is not None or results.grad_output is not None
        call.launch(
            "deform_double_backward",
            call.samples(chunk),
            (
                *direction.pointers(images),
                direction.columns.pointer,
                0 if self.others is None else self.others.pointer,
                scatter,
                pointer_of(results.offset),
                pointer_of(results.mask),
            ),
            direction.fields(chunk, images) | {"write_columns": kept},
            shared_bytes=direction.shared_bytes,
        )
        if self.sums is not None:
            self.sums.end(chunk)
