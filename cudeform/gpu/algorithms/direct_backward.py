"""Backward of convolutions in groups of a few channels, without columns; see ``direct``.

One kernel computes the gradients of input, offset and mask; it accumulates the gradient of the
input with atomics. Another kernel computes the gradients of weight and bias, in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DeviceArray, Gradients, Operands
from cudeform.geometry import Geometry
from cudeform.gpu import costs
from cudeform.gpu.algorithms.direct import (
    block_lanes,
    direct_call,
    grad_elements,
    lanes_of,
    launch,
    operand_costs,
    packed_weight,
    sample_pointers,
    slice_blocks,
    splits,
)
from cudeform.gpu.call import THREADS, Call, most_positions, pointer_of
from cudeform.gpu.chunks import Chunk, cut_into_chunks, image_rows
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.layouts import ChannelsLast, input_images, needs_no_copy, unpack_input
from cudeform.options import Options

# Elements of the gradients of weight and bias that a block of reduce_grad_weight sums at a time.
REDUCE_ELEMENTS = 8


def backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    grads: Gradients,
) -> None:
    """Queue the gradients of ``sum(grad_output * output)`` into the contiguous ``grads``."""
    call = direct_call(device, g, options, operands, [grad_output])
    chunks = cut_into_chunks(g, device, options, _costs(call, grad_output, grads))
    acc = call.variant.acc_itemsize
    grad_images = None
    if grads.input is not None:
        count = max(chunk.count for chunk in chunks)
        grad_images = call.allocate(count * g.in_pixels * g.channels, acc)
    partial = None
    if not (grads.weight is grads.bias is None):
        partial = call.allocate(splits(g) * grad_elements(g), acc)
    _DirectBackward(
        call=call,
        chunks=chunks,
        grads=grads,
        images=input_images(call, chunks),
        grad_output=ChannelsLast(call, grad_output, most_positions(g, chunks), dense=True),
        weight=packed_weight(call),
        grad_images=grad_images,
        partial=partial,
    ).run()


def _costs(call: Call, grad_output: DeviceArray, grads: Gradients) -> Costs:
    g, acc = call.g, call.variant.acc_itemsize
    total = operand_costs(call) + Costs(call=splits(g) * grad_elements(g) * acc)
    if grads.input is not None:
        total += costs.images(g, acc)
    if not needs_no_copy(call, grad_output, dense=True):
        total += costs.grad_output(g, call.itemsize)
    return total


@dataclass(frozen=True)
class _DirectBackward:
    call: Call
    chunks: list[Chunk]
    grads: Gradients
    images: ChannelsLast
    grad_output: ChannelsLast
    weight: ChannelsLast  # packed
    grad_images: Memory | None  # gradient of the channels-last images of a chunk
    partial: Memory | None  # gradient of weight and bias, summed over each split

    def run(self) -> None:
        g, grads = self.call.g, self.grads
        for chunk in self.chunks:
            images = self.images.part(chunk.images)
            grad_output = self.grad_output.part(chunk.images, self.call.pixels(chunk))
            if not (grads.input is grads.offset is grads.mask is None):
                self._backpropagate_samples(chunk, images, grad_output)
            if self.partial is not None:
                self._sum_over_splits(chunk, images, grad_output, self.partial)
        if self.partial is not None:
            pointers = (self.partial.pointer, pointer_of(grads.weight), pointer_of(grads.bias))
            blocks = -(-grad_elements(g) // REDUCE_ELEMENTS)
            struct = conv_params.ReduceGradWeight(self.call.problem, splits(g))
            launch(self.call, "reduce_grad_weight", blocks * THREADS, pointers, struct)

    def _backpropagate_samples(
        self, chunk: Chunk, images: DeviceArray, grad_output: DeviceArray
    ) -> None:
        """Queue the kernel for the gradients of input, offset and mask."""
        call, g, grads = self.call, self.call.g, self.grads
        if self.grad_images is not None and chunk.rows.start == 0:
            elements = chunk.count * g.in_pixels * g.channels
            call.fill_zero(self.grad_images, elements, call.variant.acc_itemsize)
        pointers = (
            *sample_pointers(call, images),
            self.weight.whole().pointer,
            grad_output.pointer,
            pointer_of(self.grad_images),
            pointer_of(grads.offset),
            pointer_of(grads.mask),
        )
        struct = conv_params.DirectBackward(call.sampling(chunk, images, lanes_of(call, 32)))
        launch(call, "deform_direct_backward", call.samples(chunk), pointers, struct)
        is_last = chunk.rows.stop == image_rows(g)
        if self.grad_images is not None and grads.input is not None and is_last:
            unpack_input(call, self.grad_images, grads.input, chunk)

    def _sum_over_splits(
        self, chunk: Chunk, images: DeviceArray, grad_output: DeviceArray, partial: Memory
    ) -> None:
        """Queue the kernel that adds a chunk to the partial gradients of weight and bias."""
        call, g = self.call, self.call.g
        pointers = (*sample_pointers(call, images), grad_output.pointer, partial.pointer)
        struct = conv_params.DirectGradWeight(
            sampling=call.sampling(chunk, images, block_lanes(call)),
            splits=splits(g),
            accumulate=chunk is not self.chunks[0],
        )
        blocks = splits(g) * slice_blocks(call) * (g.taps + 1)
        launch(call, "deform_direct_grad_weight", blocks * THREADS, pointers, struct)
