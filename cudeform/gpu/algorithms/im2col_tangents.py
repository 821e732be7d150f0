"""A call with tangents of its operands: the common part of forward mode and double backward.

The tangent of the output is the tangent of the columns times the weight, plus the columns times the
tangent of the weight, plus the tangent of the bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cudeform.arrays import DeviceArray, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.gpu import costs, products
from cudeform.gpu.algorithms.grad_input_sorted import scratch_costs
from cudeform.gpu.algorithms.im2col import allocate_columns, fill_columns
from cudeform.gpu.call import (
    THREADS,
    Call,
    ld_columns_of,
    pointer_of,
)
from cudeform.gpu.chunks import Chunk, cut_into_chunks
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.conv_sizes import TangentStrides
from cudeform.gpu.device_api.kernel_source import ITEMSIZE
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.layouts import ChannelsLast, input_images, pack_weight
from cudeform.gpu.variants import tangent_bytes
from cudeform.options import Options


@dataclass(frozen=True)
class ImagePair:
    """The channels-last images of a chunk, and their tangent if the input has one."""

    images: DeviceArray
    tangent: DeviceArray | None


@dataclass(frozen=True)
class TangentCall:
    """A call by im2col, with tangents of its operands.

    Attributes:
        call: the call, with the tangent of the bias in place of the bias, because the tangent of
            the output contains it in the same way.
        options: the options in force.
        chunks: the chunks of the call.
        tangents: the tangents of the operands; None stands for zero.
        images: channels-last images of the input.
        images_tangent: channels-last images of the tangent of the input.
        weight: the packed weight.
        weight_tangent: the packed tangent of the weight.
        columns: memory that holds the columns, their tangent or their gradient.
    """

    call: Call
    options: Options
    chunks: list[Chunk]
    tangents: Tangents
    images: ChannelsLast
    images_tangent: ChannelsLast | None
    weight: Memory
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
        others: tuple[DeviceArray, ...] = (),
        *,
        sorts: bool = False,
    ) -> TangentCall:
        """Prepare a call with ``tangents``.

        Args:
            device: the device that runs the call.
            operands: arrays in device memory.
            g: sizes of the call.
            options: the options in force.
            tangents: tangents of the operands.
            others: further arrays that the call reads.
            sorts: whether the gradient of the input is computed by the sorted gather.
        """
        operands = operands._replace(bias=tangents.bias)
        chunks = cut_into_chunks(g, device, options, _costs(g, operands, sorts))
        call = Call.by_columns(device, g, options, operands, chunks, [*tangents, *others])
        images_tangent = None
        if tangents.input is not None:
            pixels = max(chunk.count for chunk in chunks) * g.in_pixels
            images_tangent = ChannelsLast(call, tangents.input, pixels, dense=False)
        return cls(
            call=call,
            options=options,
            chunks=chunks,
            tangents=tangents,
            images=input_images(call, chunks),
            images_tangent=images_tangent,
            weight=pack_weight(call),
            weight_tangent=(
                None if tangents.weight is None else pack_weight(call, tangents.weight)
            ),
            columns=allocate_columns(call, chunks),
        )

    def images_of_chunks(self) -> Iterator[tuple[Chunk, ImagePair]]:
        """The chunks of the call and the images that they sample."""
        for chunk in self.chunks:
            images, tangent = self.images.part(chunk.images), None
            if self.images_tangent is not None:
                tangent = self.images_tangent.part(chunk.images)
            yield chunk, ImagePair(images, tangent)

    def tangent_strides(self, pair: ImagePair) -> TangentStrides:
        """Strides of the tangents, for a kernel that reads them."""
        return TangentStrides(
            input=self.call.strides_of(pair.tangent),
            offset=self.call.strides_of(self.tangents.offset),
            mask=self.call.strides_of(self.tangents.mask),
        )

    def pointers(self, pair: ImagePair) -> tuple[int, ...]:
        """The first pointers of every kernel that reads the tangents."""
        operands, tangents = self.call.operands, self.tangents
        return (
            pair.images.pointer,
            pointer_of(pair.tangent),
            operands.offset.pointer,
            pointer_of(operands.mask),
            pointer_of(tangents.offset),
            pointer_of(tangents.mask),
        )

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a kernel that reads the tangents."""
        return THREADS * (self.call.record_bytes + tangent_bytes(self.call.variant))

    def fill_columns_tangent(self, chunk: Chunk, pair: ImagePair) -> None:
        """Write the tangent of the columns."""
        call = self.call
        struct = conv_params.Im2colJvp(
            sampling=call.sampling(chunk, pair.images),
            layout=call.column_layout(chunk),
            tangents=self.tangent_strides(pair),
        )
        call.launch(
            "deform_im2col_jvp",
            call.samples(chunk),
            (*self.pointers(pair), self.columns.pointer),
            struct,
            shared_bytes=self.shared_bytes,
        )

    def write_output_tangent(self, chunk: Chunk, pair: ImagePair, result: DeviceArray) -> None:
        """Write the tangent of the output from that of the columns, which may be overwritten."""
        call, columns, tf32 = self.call, self.columns, self.options.allow_tf32
        products.output(call, chunk, columns, self.weight, result, tf32)
        if self.weight_tangent is not None:
            fill_columns(call, chunk, pair.images, columns)
            products.output(
                call, chunk, columns, self.weight_tangent, result, tf32, accumulate=True
            )


def _costs(g: Geometry, operands: Operands, sorts: bool) -> Costs:
    size, ld = ITEMSIZE[operands.input.dtype], ld_columns_of(g, operands)
    acc = max(4, size)
    return (
        costs.packed_weight(g, ld, 2 * size + acc)
        + costs.images(g, 2 * size + acc)
        + costs.columns(g, ld, 2 * size)
        + costs.grad_output(g, size)
        + (scratch_costs(g, acc) if sorts else Costs())
    )
