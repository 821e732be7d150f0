"""A call together with the tangents of its operands, and the tangent of its output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cudeform.arrays import Tangents
from cudeform.cpu.call import Array, Call
from cudeform.cpu.images import Images, channels_last
from cudeform.cpu.layouts import SampleArrays, column_layout, write_product
from cudeform.cpu.loops.arguments import ColumnLayout, Samples
from cudeform.cpu.loops.gather import gather_columns
from cudeform.cpu.loops.tangents import gather_tangents
from cudeform.cpu.products import output_of, taps_first
from cudeform.cpu.tiling import Box


@dataclass(frozen=True)
class ImagePair:
    """A range of channels-last images and their tangents, flat; empty tangents are zero."""

    images: Images
    tangent: Array


@dataclass(frozen=True)
class OutputScratch:
    """Scratch memory of one thread for the tangent of the output.

    Attributes:
        product: product of the tangent of the columns and the weight.
        weight_product: product of the columns and the weight's tangent; empty if that is zero.
        columns: the columns; empty if the weight's tangent is zero.
    """

    product: Array
    weight_product: Array
    columns: Array

    @classmethod
    def of(cls, tangent_call: TangentCall) -> OutputScratch:
        call = tangent_call.call
        product = call.allocate_product()
        if tangent_call.weight is None:
            return cls(product, product[:0], product[:0])
        return cls(product, call.allocate_product(), call.allocate_columns())


@dataclass(frozen=True)
class TangentCall:
    """A call and the tangents of its operands.

    Attributes:
        call: the call.
        tangents: the caller's arrays, with any strides.
        weight: tangent of the weight, taps first, or None.
        samples: tangents of offset and mask.
    """

    call: Call
    tangents: Tangents
    weight: Array | None
    samples: SampleArrays

    @classmethod
    def of(cls, call: Call, tangents: Tangents) -> TangentCall:
        """Convert the tangents for the loops."""
        weight = tangents.weight
        packed = None if weight is None else taps_first(call.g, weight, call.dtype)
        samples = SampleArrays.of(call.g, tangents.offset, tangents.mask, call.dtype)
        return cls(call, tangents, packed, samples)

    @property
    def weights(self) -> tuple[Array, ...]:
        """The weight, and its tangent if it is not zero."""
        return (self.call.weight,) if self.weight is None else (self.call.weight, self.weight)

    def pairs(self) -> Iterator[ImagePair]:
        """The images of the call and their tangents, a range of the batch at a time."""
        images = channels_last(self.call, self.call.operands.input)
        if self.tangents.input is None:
            return (ImagePair(some, some.pixels[:0]) for some in images)
        tangents = channels_last(self.call, self.tangents.input)
        return (ImagePair(a, b.pixels) for a, b in zip(images, tangents, strict=True))

    def gather(
        self,
        pair: ImagePair,
        box: Box,
        samples: Samples,
        sample_tangents: Samples,
        columns: Array,
        layout: ColumnLayout,
    ) -> None:
        """Write the tangent of the columns of a box."""
        gather_tangents(
            self.call.sizes,
            box.first,
            box.last,
            pair.images.pixels,
            pair.tangent,
            samples,
            sample_tangents,
            self.call.options.boundary_grad == "zero",
            columns,
            layout,
        )

    def write_output(
        self,
        pair: ImagePair,
        box: Box,
        samples: Samples,
        columns: Array,
        scratch: OutputScratch,
        result: Array,
    ) -> None:
        """Write the tangent of a box's output, from the tangent of its columns."""
        call = self.call
        product = call.view_product(scratch.product, len(box))
        output_of(call.g, call.weight, columns, product)
        if self.weight is not None:
            layout, pixels = column_layout(box), pair.images.pixels
            gather_columns(
                call.sizes, box.first, box.last, pixels, samples, scratch.columns, layout
            )
            weight_product = call.view_product(scratch.weight_product, len(box))
            output_of(
                call.g, self.weight, call.view_columns(scratch.columns, len(box)), weight_product
            )
            product += weight_product
        write_product(call.g, product, self.tangents.bias, box, result)
