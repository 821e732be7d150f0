"""The structs of the kernels of ``kernels/sums``. Axes are x and y, in this order."""

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

# Levels in a struct; the parameters of a kernel may have 4 KiB.
MAX_LEVELS = 16


@dataclass(frozen=True)
class SumLevel(Struct):
    """An image of a pyramid."""

    size: PerAxis
    end_tap: Int  # behind its last tap
    first_pixel: Index  # among those of all levels
    first_cell: Index  # likewise, of the sorted gather
    factor: RealPerAxis  # pixels for an offset of 1


@dataclass(frozen=True)
class SumProblem(Struct):
    """Sizes of a sum; where taps lie, see ``sums_geometry.Tap``.

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
    center_tap: Int  # the tap at which the grid leaves out a point; behind all taps if it does not
    zero_boundary_grad: Flag  # the option boundary_grad is "zero"
    lanes: Int  # adjacent threads that share an item
    vectors: Int  # of an item for each lane
    pixels: Index  # of an image, of all levels
    cells: Index  # likewise, of the sorted gather
    by_groups: Divisor
    by_taps: Divisor
    by_out: DivisorPerAxis
    by_grid_rows: Divisor
    by_vectors: Divisor
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
    """What a kernel needs to sample the input at a range of positions."""

    problem: SumProblem
    input: PixelStrides
    offset: PositionStrides
    mask: PositionStrides
    first_position: Index  # among those of all images
    items: Index  # positions * groups


@dataclass(frozen=True)
class SumForward(Struct):
    """Write the output."""

    sampling: SumSampling
