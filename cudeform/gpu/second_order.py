"""Forward mode and double backward on a device, always by im2col.

``double_backward`` computes the gradients of ``sum(cotangents * backward(...))``. This sum equals
``sum(grad_output * T)``, where T is the tangent of the output along the cotangents. So its
gradients are computed as in a backward, by a kernel that reads the gradient of the columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DeviceArray, DoubleGradients, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.gpu import products
from cudeform.gpu.algorithms import uses_gather
from cudeform.gpu.algorithms.grad_input import GradInputAccumulator
from cudeform.gpu.algorithms.im2col import allocate_columns
from cudeform.gpu.algorithms.im2col_backward import allocate_grad_weight
from cudeform.gpu.algorithms.im2col_tangents import ImagePair, TangentCall
from cudeform.gpu.call import most_positions, pointer_of, zero_arrays
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.layouts import ChannelsLast, unpack_weight
from cudeform.options import Options


def jvp(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    tangents: Tangents,
    result: DeviceArray,
) -> None:
    """Queue the tangent of the output into ``result``, contiguous.

    A tangent that is None stands for zero.
    """
    if 0 in g.output_shape:
        return
    along = TangentCall.of(device, operands, g, options, tangents)
    for chunk, pair in along.images_of_chunks():
        along.fill_columns_tangent(chunk, pair)
        along.write_output_tangent(chunk, pair, result)


def double_backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    cotangents: Tangents,
    results: DoubleGradients,
) -> None:
    """Queue the gradients of ``sum(cotangents * backward(...))`` into the contiguous ``results``.

    A cotangent that is None stands for zero. A result that is None is not computed.
    """
    wanted = [result for result in results if result is not None]
    if 0 in g.output_shape:
        zero_arrays(device, wanted)
    elif wanted:
        sorts = uses_gather(options) and results.input is not None
        along = TangentCall.of(
            device, operands, g, options, cotangents, (grad_output,), sorts=sorts
        )
        _DoubleBackward.of(along, grad_output, results).run()


@dataclass(frozen=True)
class _DoubleBackward:
    along: TangentCall
    results: DoubleGradients
    grad_output: ChannelsLast
    grad_columns_of_weight_tangent: Memory | None
    grad_weight: Memory | None  # of the packed weight
    grad_input: GradInputAccumulator | None

    @classmethod
    def of(
        cls, along: TangentCall, grad_output: DeviceArray, results: DoubleGradients
    ) -> _DoubleBackward:
        call, chunks = along.call, along.chunks
        has_weight_tangent = along.weight_tangent is not None
        return cls(
            along=along,
            results=results,
            grad_output=ChannelsLast(call, grad_output, most_positions(call.g, chunks), dense=True),
            grad_columns_of_weight_tangent=(
                allocate_columns(call, chunks) if has_weight_tangent else None
            ),
            grad_weight=None if results.weight is None else allocate_grad_weight(call),
            grad_input=GradInputAccumulator.of(call, chunks, along.options, results.input),
        )

    def run(self) -> None:
        for chunk, pair in self.along.images_of_chunks():
            self._chunk(chunk, pair)
        if self.grad_weight is not None:
            unpack_weight(self.along.call, self.grad_weight, self.results.weight, None)

    def _chunk(self, chunk: Chunk, pair: ImagePair) -> None:
        along, results = self.along, self.results
        grad_output = self.grad_output.part(chunk.images, along.call.pixels(chunk))
        if results.input is results.offset is results.mask is None:
            along.fill_columns_tangent(chunk, pair)
        else:
            self._grad_columns(chunk, grad_output)
            self._backpropagate_samples(chunk, pair)
        if self.grad_weight is not None:
            products.grad_weight(
                along.call,
                chunk,
                along.columns,
                grad_output,
                self.grad_weight,
                accumulate=chunk is not along.chunks[0],
                allow_tf32=along.options.allow_tf32,
            )
        if results.grad_output is not None:
            along.write_output_tangent(chunk, pair, results.grad_output)

    def _grad_columns(self, chunk: Chunk, grad_output: DeviceArray) -> None:
        along, tf32 = self.along, self.along.options.allow_tf32
        call = along.call
        products.grad_columns(call, chunk, grad_output, along.weight, along.columns, tf32)
        second = self.grad_columns_of_weight_tangent
        if along.weight_tangent is not None and second is not None:
            products.grad_columns(call, chunk, grad_output, along.weight_tangent, second, tf32)

    def _backpropagate_samples(self, chunk: Chunk, pair: ImagePair) -> None:
        """Queue ``deform_double_backward``."""
        along, results, scatter = self.along, self.results, None
        second = self.grad_columns_of_weight_tangent
        if self.grad_input is not None:
            scatter = self.grad_input.before_kernel(
                chunk, pair.images, along.columns, along.tangents, second
            )
        call = along.call
        struct = conv_params.DoubleBackward(
            sampling=call.sampling(chunk, pair.images),
            layout=call.column_layout(chunk),
            tangents=along.tangent_strides(pair),
            write_columns=self.grad_weight is not None or results.grad_output is not None,
        )
        call.launch(
            "deform_double_backward",
            call.samples(chunk),
            (
                *along.pointers(pair),
                along.columns.pointer,
                pointer_of(second),
                pointer_of(scatter),
                pointer_of(results.offset),
                pointer_of(results.mask),
            ),
            struct,
            shared_bytes=along.shared_bytes,
        )
        if self.grad_input is not None:
            self.grad_input.after_kernel(chunk)
