"""The parameters of the kernels in ``kernels/sums``. The axes are x and y, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cudeform.gpu.device_api.structs import (
    Divisor,
    DivisorPerAxis,
    Flag,
    Index,
    Int,
    PerAxis,
    Real,
    RealPerAxis,
    Struct,
)

# Maximum number of levels in a struct; the parameters of a kernel may have 4 KiB.
MAX_LEVELS = 16


@dataclass(frozen=True)
class SumLevel(Struct):
    """An image of a pyramid."""

    size: PerAxis
    end_tap: Int  # the tap after its last one
    first_pixel: Index  # numbered through all levels
    first_cell: Index  # the same for cells of the sorted gather
    factor: RealPerAxis  # pixels for an offset of 1


@dataclass(frozen=True)
class SumProblem(Struct):
    """Sizes of a sum, and the numbers of its taps, see ``sums_geometry.Tap``.

    A tap at column i and row j of the grid has base ``base + (i, j) * base_step`` and shift
    ``shift + (arm + (i, j) * arm_step) * arm_scale``.
    """

    groups: Int
    channels: Int  # of a group
    taps: Int
    out: PerAxis
    stride: PerAxis
    base: PerAxis
    base_step: PerAxis
    arm: PerAxis
    arm_step: PerAxis
    shift: Real
    arm_scale: Real
    center_tap: Int  # the tap at which the grid omits its centre; the number of taps if it does not
    zero_boundary_grad: Flag  # whether the option boundary_grad is "zero"
    lanes: Int  # number of adjacent threads that share an item
    vectors: Int  # number of vectors of an item per lane
    pixels: Index  # of an image, of all levels
    cells: Index  # the same for cells of the sorted gather
    by_groups: Divisor
    by_taps: Divisor
    by_out: DivisorPerAxis
    by_grid_rows: Divisor
    by_vectors: Divisor
    level_count: Int
    levels: Annotated[tuple[SumLevel, ...], SumLevel, MAX_LEVELS]


@dataclass(frozen=True)
class PixelStrides(Struct):
    """Strides of images (N, pixels, G, D) or (N, H, W, G, D), in elements."""

    n: Index
    pixel: Index
    row_gap: Index  # in addition, for each row
    group: Index
    channel: Index


@dataclass(frozen=True)
class PositionStrides(Struct):
    """Strides of an array (N, OH, OW, G, ...), in elements."""

    n: Index
    row: Index
    col: Index
    group: Index
    tap: Index  # 0 for an array of channels
    element: Index  # of a pair, or channels; 0 for a mask


@dataclass(frozen=True)
class SumSampling(Struct):
    """The parameters of a kernel that samples the input at a range of positions."""

    problem: SumProblem
    input: PixelStrides
    offset: PositionStrides
    mask: PositionStrides
    first_position: Index  # among those of all images
    items: Index  # positions * groups


@dataclass(frozen=True)
class SumForward(Struct):
    """The samples of the output."""

    sampling: SumSampling


@dataclass(frozen=True)
class SumGradStrides(Struct):
    """Strides of the gradients of offset and mask."""

    offset: PositionStrides
    mask: PositionStrides


@dataclass(frozen=True)
class SumTangentStrides(Struct):
    """Strides of tangents."""

    input: PixelStrides
    offset: PositionStrides
    mask: PositionStrides


@dataclass(frozen=True)
class SumBackward(Struct):
    """The samples, and the layouts of grad_output and of the gradients."""

    sampling: SumSampling
    grad_output: PositionStrides
    strides: SumGradStrides
    first_image: Int  # that of grad_input


@dataclass(frozen=True)
class SumJvp(Struct):
    """The samples and their tangents."""

    sampling: SumSampling
    tangents: SumTangentStrides


@dataclass(frozen=True)
class SumDoubleBackward(Struct):
    """As ``SumBackward``, with the tangents of the samples."""

    sampling: SumSampling
    tangents: SumTangentStrides
    grad_output: PositionStrides
    strides: SumGradStrides
    first_image: Int  # that of grad_input


@dataclass(frozen=True)
class CountSumCells(Struct):
    """The samples to locate; the strides of the input are unused."""

    sampling: SumSampling
    tangents: SumTangentStrides
    first_image: Int  # of the chunk
    weights_are_tangents: Flag  # whether to store the tangents of the corner weights


@dataclass(frozen=True)
class GatherSumGradInput(Struct):
    """The samples of a chunk, and the images into which they are summed."""

    sampling: SumSampling
    grad_output: PositionStrides
    images: Int
    accumulate: Flag


@dataclass(frozen=True)
class RoundGradInput(Struct):
    """Number of vectors."""

    vectors: Index
