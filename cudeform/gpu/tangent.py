"""Forward mode on a device: the tangent of the output, and what the gradients of gradients share.

The tangent of the columns times the weight, plus the columns times the weight's tangent, is the
tangent of the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cudeform.arrays import DeviceArray, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.gpu import products
from cudeform.gpu.algorithms.grad_input_sorted import image_bytes, sample_bytes
from cudeform.gpu.call import (
    THREADS,
    Call,
    most_positions,
    move_bytes,
    pointer_of,
    row_of,
    strides_of,
)
from cudeform.gpu.chunks import Chunk, Costs, chunks
from cudeform.gpu.device_api.kernel_source import ITEMSIZE
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.forward import im2col, input_images
from cudeform.gpu.layouts import ChannelsLast, pack_weight
from cudeform.options import Options


def jvp(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    tangents: Tangents,
    result: DeviceArray,
) -> None:
    """Queue the tangent of the output into ``result``, contiguous; None stands for zero."""
    if 0 in g.output_shape:
        return
    direction = Direction.of(device, operands, g, options, tangents, (), ordered=False)
    for chunk, images in direction.places():
        direction.im2col(chunk, images)
        direction.output(chunk, images, result)


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
    tangents: Tangents
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
        tangents: Tangents,
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
            "zero_boundary_grad": self.call.zero_boundary_grad,
        }

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a kernel that samples along the tangents."""
        return THREADS * (self.call.plan_bytes + move_bytes(self.call.variant))

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
            shared_bytes=self.shared_bytes,
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


def _costs(g: Geometry, operands: Operands, ordered: bool) -> Costs:
    size, row = ITEMSIZE[operands.input.dtype], row_of(g, operands)
    acc = max(4, size)
    samples = g.taps * g.offset_groups * sample_bytes(acc) if ordered else 0
    return Costs(
        call=g.out_channels * (row // g.groups) * (2 * size + acc),
        image=g.channels * g.in_pixels * (2 * size + acc) + (image_bytes(g) if ordered else 0),
        position=2 * row * size + g.out_channels * size + samples,
    )
