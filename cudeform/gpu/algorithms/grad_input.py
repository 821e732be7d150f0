"""The gradient of the input in the im2col backward: by atomics, or by a sorted gather.

With atomics, the kernel that overwrites the gradient of the columns, ``deform_backward`` or
``deform_double_backward``, adds each sample's contribution to channels-last images. The sorted
gather reads the gradient of the columns itself, so it runs before that kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import DeviceArray, Tangents
from cudeform.gpu.algorithms import uses_gather
from cudeform.gpu.algorithms.grad_input_sorted import Scratch, gather
from cudeform.gpu.call import Call
from cudeform.gpu.chunks import Chunk, image_rows
from cudeform.gpu.device_api.protocol import Memory
from cudeform.gpu.layouts import unpack_input
from cudeform.options import Options


@dataclass(frozen=True)
class GradInputAccumulator:
    """The gradient of a chunk's channels-last images, accumulated until it is complete.

    Attributes:
        call: the call.
        result: the gradient of the input, contiguous.
        images: sums of the images of one chunk.
        scratch: memory of the sorted gather; None with atomics.
    """

    call: Call
    result: DeviceArray
    images: Memory
    scratch: Scratch | None

    @classmethod
    def of(
        cls, call: Call, chunks: list[Chunk], options: Options, result: DeviceArray | None
    ) -> GradInputAccumulator | None:
        """Allocate memory for the largest chunk; None if the gradient is not wanted."""
        if result is None:
            return None
        g, count = call.g, max(chunk.count for chunk in chunks)
        return cls(
            call=call,
            result=result,
            images=call.allocate(count * g.in_pixels * g.channels, call.variant.acc_itemsize),
            scratch=Scratch.of(call, chunks) if uses_gather(options) else None,
        )

    def before_kernel(
        self,
        chunk: Chunk,
        images: DeviceArray,
        columns: Memory,
        tangents: Tangents | None = None,
        plain_columns: Memory | None = None,
    ) -> Memory | None:
        """Gather, or zero the images for the atomics of the next kernel.

        Args:
            chunk: the chunk of the columns.
            images: the channels-last images that were sampled.
            columns: the gradient of the columns.
            tangents: as for :func:`gather`.
            plain_columns: a second gradient of columns, gathered without tangents.

        Returns:
            The images that the next kernel adds to; None if the gather has written them.
        """
        call, is_first = self.call, chunk.rows.start == 0
        if self.scratch is not None:
            gather(
                call,
                chunk,
                images,
                columns,
                self.images,
                self.scratch,
                accumulate=not is_first,
                tangents=tangents,
            )
            if plain_columns is not None:
                gather(
                    call, chunk, images, plain_columns, self.images, self.scratch, accumulate=True
                )
            return None
        if is_first:
            elements = chunk.count * call.g.in_pixels * call.g.channels
            call.fill_zero(self.images, elements, call.variant.acc_itemsize)
        return self.images

    def after_kernel(self, chunk: Chunk) -> None:
        """Write the result if this was the last chunk of its images."""
        if chunk.rows.stop == image_rows(self.call.g):
            unpack_input(self.call, self.images, self.result, chunk)
