"""Backward by im2col: for each chunk, a matrix product, a kernel, and another matrix product.

The first product computes the gradient of the columns. The kernel ``deform_backward`` reads each
corner of each sample once. It scatters into the gradient of the input, writes the gradients of
offset and mask, and replaces the gradient of the columns by the columns. From these, the second
product computes the gradient of the weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DeviceArray, Gradients, Operands
from cudeform.geometry import Geometry
from cudeform.gpu import costs, products
from cudeform.gpu.algorithms import uses_gather
from cudeform.gpu.algorithms.grad_input import GradInputAccumulator
from cudeform.gpu.algorithms.grad_input_sorted import scratch_costs
from cudeform.gpu.algorithms.im2col import allocate_columns, fill_columns
from cudeform.gpu.call import THREADS, Call, ld_columns_of, most_positions, pointer_of
from cudeform.gpu.chunks import Chunk, cut_into_chunks
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.kernel_source import ITEMSIZE
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.layouts import ChannelsLast, input_images, pack_weight, unpack_weight
from cudeform.options import Options


def backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    grads: Gradients,
) -> None:
    """Queue the gradients of ``sum(grad_output * output)`` into the contiguous ``grads``."""
    sorts = uses_gather(options) and grads.input is not None
    chunks = cut_into_chunks(g, device, options, _costs(g, operands, sorts))
    call = Call.by_columns(device, g, options, operands, chunks, [grad_output])
    has_grad_weight = not (grads.weight is grads.bias is None)
    _Backward(
        call=call,
        options=options,
        chunks=chunks,
        grads=grads,
        images=input_images(call, chunks),
        grad_output=ChannelsLast(call, grad_output, most_positions(g, chunks), dense=True),
        weight=pack_weight(call),
        columns=allocate_columns(call, chunks),
        grad_weight=allocate_grad_weight(call) if has_grad_weight else None,
        grad_input=GradInputAccumulator.of(call, chunks, options, grads.input),
    ).run()


def _costs(g: Geometry, operands: Operands, sorts: bool) -> Costs:
    size, ld = ITEMSIZE[operands.input.dtype], ld_columns_of(g, operands)
    acc = max(4, size)
    return (
        costs.packed_weight(g, ld, size + acc)
        + costs.images(g, size + acc)
        + costs.columns(g, ld, size)
        + costs.grad_output(g, size)
        + (scratch_costs(g, acc) if sorts else Costs())
    )


def allocate_grad_weight(call: Call) -> Memory:
    """Memory for the gradient of the packed weight, in accumulation precision."""
    return call.allocate(call.g.out_channels * call.ld_columns, call.variant.acc_itemsize)


@dataclass(frozen=True)
class _Backward:
    call: Call
    options: Options
    chunks: list[Chunk]
    grads: Gradients
    images: ChannelsLast
    grad_output: ChannelsLast
    weight: Memory  # packed
    columns: Memory  # first the gradient of the columns, then the columns
    grad_weight: Memory | None  # of the packed weight
    grad_input: GradInputAccumulator | None

    def run(self) -> None:
        for chunk in self.chunks:
            self._chunk(chunk)
        if self.grad_weight is not None:
            unpack_weight(self.call, self.grad_weight, self.grads.weight, self.grads.bias)

    def _chunk(self, chunk: Chunk) -> None:
        call, grads, tf32 = self.call, self.grads, self.options.allow_tf32
        images = self.images.part(chunk.images)
        grad_output = self.grad_output.part(chunk.images, call.pixels(chunk))
        if grads.input is grads.offset is grads.mask is None:
            fill_columns(call, chunk, images, self.columns)
        else:
            products.grad_columns(call, chunk, grad_output, self.weight, self.columns, tf32)
            self._backpropagate_samples(chunk, images)
        if self.grad_weight is not None:
            products.grad_weight(
                call,
                chunk,
                self.columns,
                grad_output,
                self.grad_weight,
                accumulate=chunk is not self.chunks[0],
                allow_tf32=tf32,
            )

    def _backpropagate_samples(self, chunk: Chunk, images: DeviceArray) -> None:
        """Queue ``deform_backward``."""
        call, grads, operands = self.call, self.grads, self.call.operands
        scatter = None
        if self.grad_input is not None:
            scatter = self.grad_input.before_kernel(chunk, images, self.columns)
        struct = conv_params.Backward(
            sampling=call.sampling(chunk, images),
            layout=call.column_layout(chunk),
            write_columns=self.grad_weight is not None,
        )
        pointers = (
            images.pointer,
            operands.offset.pointer,
            pointer_of(operands.mask),
            self.columns.pointer,
            pointer_of(scatter),
            pointer_of(grads.offset),
            pointer_of(grads.mask),
        )
        shared = THREADS * call.record_bytes
        call.launch("deform_backward", call.samples(chunk), pointers, struct, shared_bytes=shared)
        if self.grad_input is not None:
            self.grad_input.after_kernel(chunk)
