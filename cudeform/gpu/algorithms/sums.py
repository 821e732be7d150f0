"""A call of an operator that sums samples without a filter, and its forward.

Arrays have the canonical form of ``sums_geometry``. The kernels read the input directly, so there
are neither copies nor columns, and the forward is one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from cudeform.arrays import DeviceArray, Operands
from cudeform.gpu.call import Launcher, zero_arrays
from cudeform.gpu.device_api import sums_params
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, widest
from cudeform.gpu.device_api.protocol import Device
from cudeform.gpu.device_api.sums_sizes import (
    SumProblem,
    SumSampling,
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
class SumCall(Launcher):
    """One call of the engine.

    Attributes:
        device: the device that runs the call.
        g: sizes of the call.
        operands: arrays in device memory; weight and bias are None.
        variant: the compile-time parameters of the kernels.
        problem: the sizes, as a struct for kernels.
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
        """A call that also accesses the channels-last arrays ``by_channel``, and ``others``."""
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

    @property
    def all_positions(self) -> slice:
        """The output positions of all images."""
        return slice(0, positions_of(self.g))

    @property
    def vector_threads(self) -> int:
        """Number of threads of a kernel in which each thread computes a vector of the output."""
        return positions_of(self.g) * self.g.groups * self.g.channels // self.variant.vector

    def item_threads(self, positions: slice) -> int:
        """Number of threads of a kernel in which the lanes of an item process all its channels."""
        return int(positions.stop - positions.start) * self.g.groups * self.problem.lanes

    def sampling(self, positions: slice) -> SumSampling:
        """The parameters of a kernel that samples the input at a range of positions."""
        return SumSampling(
            problem=self.problem,
            input=pixel_strides(self.g, self.operands.input),
            offset=position_strides(self.operands.offset),
            mask=position_strides(self.operands.mask),
            first_position=positions.start,
            items=(positions.stop - positions.start) * self.g.groups,
        )


def forward(
    device: Device, operands: Operands, g: SumGeometry, options: Options, output: DeviceArray
) -> None:
    """Queue the sums of ``operands`` into ``output``, contiguous."""
    if not prod(output.shape):
        return
    if not has_samples(g):
        zero_arrays(device, [output])
        return
    call = SumCall.of(device, g, options, operands, [output])
    struct = sums_params.SumForward(call.sampling(call.all_positions))
    pointers = (operands.input.pointer, operands.offset.pointer, operands.mask.pointer)
    call.launch("deform_sum", call.vector_threads, (*pointers, output.pointer), struct)


def has_samples(g: SumGeometry) -> bool:
    """Whether there are samples; if not, the output and the gradient of the input are 0."""
    return positions_of(g) * g.groups * g.taps > 0


def positions_of(g: SumGeometry) -> int:
    """Output positions of all images."""
    return g.batch * g.out[0] * g.out[1]


def vector_of(g: SumGeometry, arrays: Sequence[DeviceArray | None]) -> int:
    """Number of channels that a thread loads at a time: 16 bytes if all arrays allow it.

    The last axis of each array contains the channels of a group. They must be contiguous, and each
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
