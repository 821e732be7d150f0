"""Backward on a device: per chunk, a product, one pass over the gradient of the columns, a product.

The pass reads each corner once. It scatters the gradient of the input, writes those of offset and
mask, and leaves the columns behind, from which the second product makes the weight's gradient.

Groups of a few channels take another way, ``direct``, see ``algorithms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from cudeform.arrays import Gradients, Operands
from cudeform.geometry import Geometry
from cudeform.gpu import products
from cudeform.gpu.algorithms import backward_algorithm, direct_backward, uses_gather
from cudeform.gpu.algorithms.grad_input import InputSums
from cudeform.gpu.algorithms.grad_input_sorted import image_bytes, sample_bytes
from cudeform.gpu.call import THREADS, Call, most_positions, pointer_of, row_of
from cudeform.gpu.chunks import Chunk, Costs, chunks
from cudeform.gpu.device_api.kernel_source import ITEMSIZE
from cudeform.gpu.device_api.protocol import Device, DeviceArray, Memory
from cudeform.gpu.forward import im2col, input_images
from cudeform.gpu.layouts import ChannelsLast, pack_weight, unpack_weight
from cudeform.options import Options


def backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    grads: Gradients,
) -> None:
    """Queue the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``.

    Those arrays are contiguous; what is None is not computed.
    """
    wanted = [grad for grad in grads if grad is not None]
    if 0 in g.output_shape:
        zero(device, wanted)
    elif wanted and backward_algorithm(g, options) == "direct":
        direct_backward.backward(device, operands, g, options, grad_output, grads)
    elif wanted:
        _Backward.of(device, operands, g, options, grad_output, grads).run()


def zero(device: Device, arrays: list[DeviceArray]) -> None:
    """Fill contiguous arrays with zeros."""
    for array in arrays:
        nbytes = prod(array.shape) * ITEMSIZE[array.dtype]
        if nbytes:
            device.fill_zero(array.pointer, nbytes)


@dataclass(frozen=True)
class _Backward:
    call: Call
    options: Options
    pieces: list[Chunk]
    grads: Gradients
    images: ChannelsLast
    grad_output: ChannelsLast
    weight: Memory
    columns: Memory
    grad_weight: Memory | None
    sums: InputSums | None  # of the input's gradient

    @classmethod
    def of(
        cls,
        device: Device,
        operands: Operands,
        g: Geometry,
        options: Options,
        grad_output: DeviceArray,
        grads: Gradients,
    ) -> _Backward:
        ordered = uses_gather(options) and grads.input is not None
        pieces = chunks(g, device, options, _costs(g, operands, ordered))
        call = Call.of(device, g, options, operands, pieces, [grad_output])
        positions, acc = most_positions(g, pieces), call.variant.acc_itemsize
        weighs = not (grads.weight is grads.bias is None)
        return cls(
            call=call,
            options=options,
            pieces=pieces,
            grads=grads,
            images=input_images(call, pieces),
            grad_output=ChannelsLast(call, grad_output, positions, dense=True),
            weight=pack_weight(call),
            columns=call.allocate(positions * row_of(g, operands)),
            grad_weight=call.allocate(g.out_channels * call.leading, acc) if weighs else None,
            sums=(
                None if grads.input is None else InputSums.of(call, pieces, options, grads.input)
            ),
        )

    def run(self) -> None:
        for chunk in self.pieces:
            self._chunk(chunk, first=chunk is self.pieces[0])
        if self.grad_weight is not None:
            unpack_weight(self.call, self.grad_weight, self.grads.weight, self.grads.bias)

    def _chunk(self, chunk: Chunk, *, first: bool) -> None:
        call, tf32 = self.call, self.options.allow_tf32
        images = self.images.part(chunk.images, slice(0, call.g.in_h))
        grad_output = self.grad_output.part(chunk.images, chunk.rows).pointer
        if self.grads.input is self.grads.offset is self.grads.mask is None:
            im2col(call, chunk, images, self.columns)
        else:
            products.grad_columns(
                call, chunk, grad_output, self.weight.pointer, self.columns.pointer, tf32
            )
            self._pull(chunk, images)
        if self.grad_weight is not None:
            products.grad_weight(
                call,
                chunk,
                self.columns.pointer,
                grad_output,
                self.grad_weight.pointer,
                add=not first,
                allow_tf32=tf32,
            )

    def _pull(self, chunk: Chunk, images: DeviceArray) -> None:
        """From the gradient of the columns to those of input, offset and mask, and the columns."""
        call, grads = self.call, self.grads
        scatter = 0 if self.sums is None else self.sums.begin(chunk, images, self.columns)
        fields = call.chunk_fields(chunk, images) | {
            "write_columns": self.grad_weight is not None,
            "zero_boundary_grad": call.zero_boundary_grad,
        }
        operands = call.operands
        pointers = (
            images.pointer,
            operands.offset.pointer,
            pointer_of(operands.mask),
            self.columns.pointer,
            scatter,
            pointer_of(grads.offset),
            pointer_of(grads.mask),
        )
        shared = THREADS * call.plan_bytes
        call.launch("deform_backward", call.samples(chunk), pointers, fields, shared_bytes=shared)
        if self.sums is not None:
            self.sums.end(chunk)


def _costs(g: Geometry, operands: Operands, ordered: bool) -> Costs:
    size, row = ITEMSIZE[operands.input.dtype], row_of(g, operands)
    acc = max(4, size)
    samples = g.taps * g.offset_groups * sample_bytes(acc) if ordered else 0
    return Costs(
        call=g.out_channels * (row // g.groups) * (size + acc),
        image=g.channels * g.in_pixels * (size + acc) + (image_bytes(g) if ordered else 0),
        position=row * size + g.out_channels * size + samples,
    )
