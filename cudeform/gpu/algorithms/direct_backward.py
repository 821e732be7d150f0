"""Backward of convolutions in groups of a few channels: see ``direct``."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import Gradients, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.algorithms.direct import (
    SUM_ITEMS,
    call_of,
    costs_of,
    images_of,
    lanes_of,
    launch,
    parts_of,
    sources,
    sums_of,
    tile_lanes,
    tiles_across,
    weight_of,
    whole,
)
from cudeform.gpu.call import THREADS, Call, pointer_of
from cudeform.gpu.chunks import Chunk, Costs, chunks
from cudeform.gpu.device_api.protocol import Device, DeviceArray, Memory
from cudeform.gpu.layouts import ChannelsLast, readable, unpack_input
from cudeform.options import Options


def backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    grads: Gradients,
) -> None:
    """Queue the gradients of ``sum(grad_output * output)``; the input's is summed in no order."""
    call = call_of(device, g, options, operands, [grad_output])
    pieces = chunks(g, device, options, _costs(call, grad_output, grads))
    most = max(chunk.count for chunk in pieces)
    table = None
    if grads.input is not None:
        table = call.allocate(most * g.in_pixels * g.channels, call.variant.acc_itemsize)
    partial = None
    if not (grads.weight is grads.bias is None):
        partial = call.allocate(parts_of(g) * sums_of(g), call.variant.acc_itemsize)
    positions = max(call.positions(chunk) for chunk in pieces)
    _Backward(
        call=call,
        pieces=pieces,
        grads=grads,
        images=images_of(call, pieces),
        grad_output=ChannelsLast(call, grad_output, positions, dense=True),
        weight=weight_of(call),
        table=table,
        partial=partial,
    ).run()


@dataclass(frozen=True)
class _Backward:
    call: Call
    pieces: list[Chunk]
    grads: Gradients
    images: ChannelsLast
    grad_output: ChannelsLast
    weight: ChannelsLast
    table: Memory | None  # gradient of some channels-last images
    partial: Memory | None  # sums over parts of the positions

    def run(self) -> None:
        g, grads = self.call.g, self.grads
        for chunk in self.pieces:
            table = self.images.part(chunk.images, slice(0, g.in_h))
            grad_output = self.grad_output.part(chunk.images, chunk.rows).pointer
            if not (grads.input is grads.offset is grads.mask is None):
                self._pull(chunk, table, grad_output)
            if self.partial is not None:
                self._sum(chunk, table, grad_output, self.partial)
        if self.partial is not None:
            pointers = (self.partial.pointer, pointer_of(grads.weight), pointer_of(grads.bias))
            items = -(-sums_of(g) // SUM_ITEMS) * THREADS
            launch(self.call, "reduce_grad_weight", items, pointers, {"splits": parts_of(g)})

    def _pull(self, chunk: Chunk, images: DeviceArray, grad_output: int) -> None:
        """Gradients of input, offset and mask."""
        call, g, grads = self.call, self.call.g, self.grads
        opens, closes = chunk.rows.start == 0, chunk.rows.stop == g.out_h
        if self.table is not None and opens:
            nbytes = chunk.count * g.in_pixels * g.channels * call.variant.acc_itemsize
            call.device.fill_zero(self.table.pointer, nbytes)
        pointers = (
            *sources(call, images),
            self.weight.part(*whole(g)).pointer,
            grad_output,
            0 if self.table is None else self.table.pointer,
            pointer_of(grads.offset),
            pointer_of(grads.mask),
        )
        fields = call.chunk_fields(chunk, images)
        fields |= {"lanes": lanes_of(call, 32), "zero_boundary_grad": call.zero_boundary_grad}
        launch(call, "deform_direct_backward", call.samples(chunk), pointers, fields)
        if self.table is not None and grads.input is not None and closes:
            unpack_input(call, self.table, grads.input, chunk)

    def _sum(self, chunk: Chunk, images: DeviceArray, grad_output: int, partial: Memory) -> None:
        """Partial sums of the gradients of weight and bias, added to those of earlier chunks."""
        call, parts = self.call, parts_of(self.call.g)
        pointers = (*sources(call, images), grad_output, partial.pointer)
        fields = call.chunk_fields(chunk, images) | {
            "lanes": tile_lanes(call),
            "splits": parts,
            "accumulate": chunk is not self.pieces[0],
        }
        tiles = parts * tiles_across(call) * (call.g.taps + 1)
        launch(call, "deform_direct_grad_weight", tiles * THREADS, pointers, fields)


def _costs(call: Call, grad_output: DeviceArray, grads: Gradients) -> Costs:
    g, acc, plain = call.g, call.variant.acc_itemsize, costs_of(call)
    table = g.channels * g.in_pixels * acc if grads.input is not None else 0
    dense = readable(call, grad_output, dense=True)
    return Costs(
        call=plain.call + parts_of(g) * sums_of(g) * acc,
        image=plain.image + table,
        position=0 if dense else g.out_channels * call.itemsize,
    )
