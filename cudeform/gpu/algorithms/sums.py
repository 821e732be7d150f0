"""Sums of samples without a filter: their calls, and the forward.

Arrays have the canonical form of ``sums_geometry``. Samples are read where the input lies, so there
are neither copies nor columns, and the forward is one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from cudeform.arrays import DeviceArray, Operands
from cudeform.gpu.call import THREADS, most_blocks, queue_launch
from cudeform.gpu.device_api import sums_params
from cudeform.gpu.device_api.commands import FillZero
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, widest
from cudeform.gpu.device_api.protocol import Device
from cudeform.gpu.device_api.structs import Struct
from cudeform.gpu.device_api.sums_params import SumProblem, SumSampling
from cudeform.gpu.device_api.sums_sizes import (
    cells_of_image,
    pixel_strides,
    position_strides,
    sum_problem,
    used_strides,
)
from cudeform.gpu.variants import index_bits_for
from cudeform.options import Options
from cudeform.sums_geometry import SumGeometry


@dataclass(frozen=True)
class SumCall:
    """One call of the engine.

    Attributes:
        device: the device that runs the call.
        g: sizes of the call.
        operands: arrays in device memory; weight and bias are None.
        variant: the compile-time parameters of the kernels.
        problem: the sizes as kernels take them.
    """

    device: Device
    g: SumGeometry
    operands: Operands
    variant: Variant
    problem: SumProblem

    @classmethod
    def of(
        cls,
        device: Device,
        g: SumGeometry,
        options: Options,
        operands: Operands,
        by_channel: Sequence[DeviceArray | None],
        others: Sequence[DeviceArray | None] = (),
    ) -> SumCall:
        """A call that also accesses ``by_channel``, with channels last, and ``others``."""
        input, offset = operands.input, operands.offset
        vector = vector_of(g, [input, *by_channel])
        vectors = g.channels // vector
        lanes = min(32, vectors & -vectors) if vectors else 1
        arrays = [input, offset, operands.mask, *by_channel, *others]
        row = g.batch * g.groups
        sizes = (
            positions_of(g) * g.groups * max(g.channels, g.taps),
            row * g.channels * g.pixels,
            row * cells_of_image(g),
        )
        bits = index_bits_for(arrays, sizes)
        return cls(
            device=device,
            g=g,
            operands=operands,
            variant=Variant(input.dtype, bits, vector, coord_dtype=offset.dtype),
            problem=sum_problem(
                g,
                lanes=lanes,
                vectors=vectors // lanes,
                zero_boundary_grad=options.boundary_grad == "zero",
            ),
        )

    def sampling(self, first_position: int, positions: int) -> SumSampling:
        """The parameters of a kernel that samples the input at a range of positions."""
        return SumSampling(
            problem=self.problem,
            input=pixel_strides(self.g, self.operands.input),
            offset=position_strides(self.operands.offset),
            mask=position_strides(self.operands.mask),
            first_position=first_position,
            items=positions * self.g.groups,
        )

    def launch(
        self, name: str, threads: int, pointers: Sequence[int], struct: Struct, shared: int = 0
    ) -> None:
        """Launch a kernel with a grid-stride loop over threads."""
        if threads:
            blocks = min(-(-threads // THREADS), most_blocks(self.device))
            queue_launch(self.device, self.variant, name, blocks, THREADS, pointers, struct, shared)


def forward(
    device: Device, operands: Operands, g: SumGeometry, options: Options, output: DeviceArray
) -> None:
    """Queue the sums of ``operands`` into ``output``, contiguous."""
    if not prod(output.shape):
        return
    if not g.taps:
        device.queue(FillZero(prod(output.shape) * ITEMSIZE[output.dtype]), [output.pointer])
        return
    call = SumCall.of(device, g, options, operands, [output])
    positions = positions_of(g)
    struct = sums_params.SumForward(call.sampling(0, positions))
    pointers = (operands.input.pointer, operands.offset.pointer, operands.mask.pointer)
    threads = positions * g.groups * g.channels // call.variant.vector
    call.launch("deform_sum", threads, (*pointers, output.pointer), struct)


def positions_of(g: SumGeometry) -> int:
    """Output positions of all images."""
    return g.batch * g.out[0] * g.out[1]


def vector_of(g: SumGeometry, arrays: Sequence[DeviceArray | None]) -> int:
    """Channels that a thread takes at a time: 16 bytes of them where all arrays allow it.

    The last axis of each array are the channels of a group. They must be contiguous, and each
    vector must begin at a multiple of 16 bytes.
    """
    present = [array for array in arrays if array is not None]
    wide = widest(present[0].dtype)
    fits = g.channels and g.channels % wide == 0 and all(_in_vectors(a, wide) for a in present)
    return wide if fits else 1


def _in_vectors(array: DeviceArray, wide: int) -> bool:
    *strides, channel = used_strides(array)
    aligned = array.pointer % (wide * ITEMSIZE[array.dtype]) == 0
    return channel == 1 and aligned and all(stride % wide == 0 for stride in strides)
