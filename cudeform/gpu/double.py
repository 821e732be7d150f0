"""Forward mode and the gradients of the gradients on a device.

``cpu/double.py`` says where the formulas come from. In short: the tangent of the columns times the
weight, plus the columns times the weight's tangent, is the tangent of the output; the gradients of
``sum(grad_output * that)`` are the gradients of the gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cudeform.geometry import Geometry
from cudeform.gpu import products
from cudeform.gpu.backward import zero
from cudeform.gpu.call import (
    MOVE_BYTES,
    PLAN_BYTES,
    THREADS,
    Call,
    most_positions,
    pointer_of,
    row_of,
    strides_of,
)
from cudeform.gpu.chunks import Chunk, Costs, chunks
from cudeform.gpu.forward import im2col, input_images
from cudeform.gpu.gather import Scratch, cells_of, gather, image_bytes, sample_bytes
from cudeform.gpu.layout import ChannelsLast, pack_weight, unpack_input, unpack_weight
from cudeform.gpu.protocol import Device, Memory
from cudeform.gpu.scatter import gathers
from cudeform.gpu.source import ITEMSIZE
from cudeform.operands import DeviceArray, DoubleGradients, Gradients, Operands
from cudeform.options import Options


def jvp(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    tangents: Gradients,
    result: DeviceArray,
) -> None:
    """Queue the tangent of the output into ``result``, contiguous; None stands for zero."""
    if 0 in g.output_shape:
        return
    direction = Direction.of(device, operands, g, options, tangents, (), ordered=False)
    for chunk, images in direction.places():
        direction.im2col(chunk, images)
        direction.output(chunk, images, result)


def double_backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    cotangents: Gradients,
    results: DoubleGradients,
) -> None:
    """Queue the gradients of ``sum(cotangents * backward(...))`` into ``results``, contiguous."""
    wanted = [result for result in results if result is not None]
    if 0 in g.output_shape:
        zero(device, wanted)
    elif wanted:
        ordered = gathers(options) and results.input is not None
        direction = Direction.of(
            device, operands, g, options, cotangents, (grad_output,), ordered=ordered
        )
        _Double.of(direction, grad_output, results).run()


@dataclass(frozen=True)
class Images:
    """Some channels-last images and, if the input has a tangent, theirs."""

    here: DeviceArray
    tangent: DeviceArray | None


@dataclass(frozen=True)
class Direction:
    """A call and the tangents of its operands."""

    call: Call
    options: Options
    pieces: list[Chunk]
    tangents: Gradients
    images: ChannelsLast
    images_tangent: ChannelsLast | None
    weight: Memory  # packed, with the bias's tangent as bias
    weight_tangent: Memory | None
    columns: Memory

    @classmethod
    def of(
        cls,
        device: Device,
        operands: Operands,
        g: Geometry,
        options: Options,
        tangents: Gradients,
        others: tuple[DeviceArray, ...],
        *,
        ordered: bool,
    ) -> Direction:
        """Prepare a call along ``tangents`` that also reads ``others``."""
        operands = replace(operands, bias=tangents.bias)
        pieces = chunks(g, device, options, _costs(g, operands, ordered))
        call = Call.of(device, g, options, operands, pieces, [*tangents, *others])
        tangent = None
        if tangents.input is not None:
            pixels = max(chunk.count for chunk in pieces) * g.in_pixels
            tangent = ChannelsLast(call, tangents.input, pixels, dense=False)
        return cls(
            call=call,
            options=options,
            pieces=pieces,
            tangents=tangents,
            images=input_images(call, pieces),
            images_tangent=tangent,
            weight=pack_weight(call),
            weight_tangent=(
                None if tangents.weight is None else pack_weight(call, tangents.weight)
            ),
            columns=call.allocate(most_positions(g, pieces) * row_of(g, operands)),
        )

    def places(self) -> Iterator[tuple[Chunk, Images]]:
        """The chunks of the call and the images they sample."""
        rows = slice(0, self.call.g.in_h)
        for chunk in self.pieces:
            here = self.images.part(chunk.images, rows)
            tangent = None
            if self.images_tangent is not None:
                tangent = self.images_tangent.part(chunk.images, rows)
            yield chunk, Images(here, tangent)

    def fields(self, chunk: Chunk, images: Images) -> dict[str, Any]:
        """Fields of struct Launch for a kernel that samples along the tangents."""
        return self.call.chunk_fields(chunk, images.here) | {
            "input_tangent": strides_of(images.tangent),
            "offset_tangent": strides_of(self.tangents.offset),
            "mask_tangent": strides_of(self.tangents.mask),
            "mmcv": self.call.mmcv,
        }

    def pointers(self, images: Images) -> tuple[int, ...]:
        """What every kernel that samples along the tangents reads first."""
        operands, tangents = self.call.operands, self.tangents
        return (
            images.here.pointer,
            pointer_of(images.tangent),
            operands.offset.pointer,
            pointer_of(operands.mask),
            pointer_of(tangents.offset),
            pointer_of(tangents.mask),
        )

    def im2col(self, chunk: Chunk, images: Images) -> None:
        """Fill the columns with their tangent."""
        self.call.launch(
            "deform_im2col_jvp",
            self.call.samples(chunk),
            (*self.pointers(images), self.columns.pointer),
            self.fields(chunk, images),
            shared_bytes=SHARED_BYTES,
        )

    def output(self, chunk: Chunk, images: Images, result: DeviceArray) -> None:
        """Write the tangent of the output from that of the columns, which are lost."""
        call, tf32 = self.call, self.options.allow_tf32
        columns = self.columns.pointer
        products.output(call, chunk, columns, self.weight.pointer, result, tf32)
        if self.weight_tangent is not None:
            im2col(call, chunk, images.here, self.columns)
            other = self.weight_tangent.pointer
            products.output(call, chunk, columns, other, result, tf32, add=True)


SHARED_BYTES = THREADS * (PLAN_BYTES + MOVE_BYTES)


@dataclass(frozen=True)
class _Double:
    direction: Direction
    results: DoubleGradients
    grad_output: ChannelsLast
    others: Memory | None  # gradient of the columns that meets the weight's tangent
    grad_weight: Memory | None
    grad_images: Memory | None
    scratch: Scratch | None

    @classmethod
    def of(
        cls, direction: Direction, grad_output: DeviceArray, results: DoubleGradients
    ) -> _Double:
        call = direction.call
        g, pieces, acc = call.g, direction.pieces, call.variant.acc_itemsize
        count, positions = max(chunk.count for chunk in pieces), most_positions(g, pieces)
        scratch = None
        if gathers(direction.options) and results.input is not None:
            scratch = Scratch.of(call, positions * g.taps * g.offset_groups, cells_of(g, count))
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
            grad_images=(
                None
                if results.input is None
                else call.allocate(count * g.in_pixels * g.channels, acc)
            ),
            scratch=scratch,
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
        call = direction.call
        scatter = 0
        if self.grad_images is not None and self.scratch is not None:
            self._gather(chunk, images, self.grad_images, self.scratch)
        elif self.grad_images is not None:
            scatter = self.grad_images.pointer
            if chunk.rows.start == 0:
                elements = chunk.count * call.g.in_pixels * call.g.channels
                call.device.fill_zero(scatter, elements * call.variant.acc_itemsize)
        kept = self.grad_weight is not None or results.grad_output is not None
        call.launch(
            "deform_double",
            call.samples(chunk),
            (
                *direction.pointers(images),
                direction.columns.pointer,
                0 if self.others is None else self.others.pointer,
                scatter,
                pointer_of(results.offset),
                pointer_of(results.mask),
            ),
            direction.fields(chunk, images) | {"keep_columns": kept},
            shared_bytes=SHARED_BYTES,
        )
        closes = chunk.rows.stop == call.g.out_h
        if self.grad_images is not None and results.input is not None and closes:
            unpack_input(call, self.grad_images, results.input, chunk)

    def _gather(self, chunk: Chunk, images: Images, grad_images: Memory, scratch: Scratch) -> None:
        direction, more = self.direction, chunk.rows.start > 0
        call, here = direction.call, images.here
        gather(
            call,
            chunk,
            here,
            direction.columns,
            grad_images,
            scratch,
            accumulate=more,
            along=direction.tangents,
        )
        if self.others is not None:
            gather(call, chunk, here, self.others, grad_images, scratch, accumulate=True)


def _costs(g: Geometry, operands: Operands, ordered: bool) -> Costs:
    size, row = ITEMSIZE[operands.input.dtype], row_of(g, operands)
    acc = max(4, size)
    samples = g.taps * g.offset_groups * sample_bytes(acc) if ordered else 0
    return Costs(
        call=g.out_channels * (row // g.groups) * (2 * size + acc),
        image=g.channels * g.in_pixels * (2 * size + acc) + (image_bytes(g) if ordered else 0),
        position=2 * row * size + g.out_channels * size + samples,
    )
