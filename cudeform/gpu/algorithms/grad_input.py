"""The gradient of the input in a backward by columns: its sums, in each of the ways there are.

``scatter`` has the ways and the rule. Those that read the gradient of the columns on their own come
before the kernel that overwrites it, ``deform_backward`` or ``deform_double_backward``; the others
are left to that kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import Tangents
from cudeform.gpu.algorithms import uses_gather
from cudeform.gpu.algorithms.grad_input_sorted import Scratch, cells_of, gather
from cudeform.gpu.call import Call, most_positions
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.protocol import DeviceArray, Memory
from cudeform.gpu.layouts import unpack_input
from cudeform.options import Options


@dataclass(frozen=True)
class InputSums:
    """Sums of a chunk's images, channels last.

    Attributes:
        call: the call.
        result: where they go once they are complete.
        images: the sums.
        scratch: of the ordered gather, if that is the way.
    """

    call: Call
    result: DeviceArray
    images: Memory
    scratch: Scratch | None

    @classmethod
    def of(
        cls,
        call: Call,
        pieces: list[Chunk],
        options: Options,
        result: DeviceArray,
    ) -> InputSums:
        """Memory for a call that is worked through in ``pieces``."""
        g, acc = call.g, call.variant.acc_itemsize
        count = max(chunk.count for chunk in pieces)
        samples = most_positions(g, pieces) * g.taps * g.offset_groups
        return cls(
            call=call,
            result=result,
            images=call.allocate(count * g.in_pixels * g.channels, acc),
            scratch=Scratch.of(call, samples, cells_of(g, count)) if uses_gather(options) else None,
        )

    def begin(
        self,
        chunk: Chunk,
        images: DeviceArray,
        columns: Memory,
        along: Tangents | None = None,
        others: Memory | None = None,
    ) -> int:
        """Sum what the gradient of the columns gives, unless the kernel that follows is to do it.

        Args:
            chunk: what the columns cover.
            images: the images that they were sampled from.
            columns: their gradient.
            along: tangents, as :func:`gather` takes them.
            others: the gradient of more columns, which no tangent turns.

        Returns:
            Where that kernel shall add to, 0 if it shall not.
        """
        call, opens = self.call, chunk.rows.start == 0
        if self.scratch is not None:
            where = self.images, self.scratch
            gather(call, chunk, images, columns, *where, accumulate=not opens, along=along)
            if others is not None:
                gather(call, chunk, images, others, *where, accumulate=True)
            return 0
        if opens:
            elements = chunk.count * call.g.in_pixels * call.g.channels
            call.device.fill_zero(self.images.pointer, elements * call.variant.acc_itemsize)
        return self.images.pointer

    def end(self, chunk: Chunk) -> None:
        """Round the sums and put them where the caller wants them, if they are complete."""
        if chunk.rows.stop == self.call.g.out_h:
            unpack_input(self.call, self.images, self.result, chunk)
