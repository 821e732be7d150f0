"""Structs of sizes that several kernels of sums have in common; the axes are in the order x, y."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any

from cudeform.arrays import DeviceArray
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
    divisor,
)
from cudeform.sums_geometry import ScaledGrid, SumGeometry

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


NO_LEVEL = SumLevel(size=(0, 0), end_tap=0, first_pixel=0, first_cell=0, factor=(0.0, 0.0))


def sum_problem(
    g: SumGeometry, *, lanes: int, vectors: int, zero_boundary_grad: bool
) -> SumProblem:
    """The sizes of a call.

    Args:
        g: sizes of the call.
        lanes: number of adjacent threads that share an item.
        vectors: number of vectors of an item per lane.
        zero_boundary_grad: whether the gradient of a coordinate that is exactly -1 is 0.

    Raises:
        ValueError: there are more than ``MAX_LEVELS`` levels.
    """
    if len(g.levels) > MAX_LEVELS:
        raise ValueError(f"a GPU takes at most {MAX_LEVELS} levels, got {len(g.levels)}")
    grid = _free if g.grid is None else _scaled(g.grid)
    rows = 1 if g.grid is None else g.grid.kernel[1]
    out = (g.out[1], g.out[0])
    return SumProblem(
        groups=g.groups,
        channels=g.channels,
        taps=g.taps,
        out=out,
        stride=g.stride,
        **grid,
        zero_boundary_grad=zero_boundary_grad,
        lanes=lanes,
        vectors=vectors,
        pixels=g.pixels,
        cells=cells_of_image(g),
        by_groups=divisor(g.groups),
        by_taps=divisor(g.taps),
        by_out=(divisor(out[0]), divisor(out[1])),
        by_grid_rows=divisor(rows),
        by_vectors=divisor(vectors),
        level_count=len(g.levels),
        levels=_levels(g),
    )


def _levels(g: SumGeometry) -> tuple[SumLevel, ...]:
    ends = accumulate(level.taps for level in g.levels)
    cells = accumulate((cells_of(level.width, level.height) for level in g.levels), initial=0)
    scale = None if g.grid is None else g.grid.scale
    levels = [
        SumLevel(
            size=(level.width, level.height),
            end_tap=end,
            first_pixel=level.first,
            first_cell=cell,
            factor=(level.width, level.height) if scale is None else (scale, scale),
        )
        for level, end, cell in zip(g.levels, ends, cells, strict=False)
    ]
    return (*levels, *[NO_LEVEL] * (MAX_LEVELS - len(levels)))


def cells_of(width: int, height: int) -> int:
    """Number of cells of a level, including those that extend beyond it."""
    return (width + 1) * (height + 1)


def cells_of_image(g: SumGeometry) -> int:
    """Number of cells of all levels."""
    return sum(cells_of(level.width, level.height) for level in g.levels)


# A location is a coordinate in units of the level's size, plus half a pixel.
_free = {
    "base": (0, 0),
    "base_step": (0, 0),
    "arm": (0, 0),
    "arm_step": (0, 0),
    "shift": -0.5,
    "arm_scale": 0.0,
    "center_tap": 2**31 - 1,
}


def _scaled(grid: ScaledGrid) -> dict[str, Any]:
    pads, center = grid.pad_begin, grid.center
    columns, rows = grid.kernel
    center_tap = columns // 2 * rows + rows // 2 if grid.remove_center else 2**31 - 1
    shared = {"shift": 0.0, "arm_scale": grid.scale, "center_tap": center_tap}
    if grid.scale == 1.0:
        return shared | {
            "base": (-pads[0], -pads[1]),
            "base_step": grid.dilation,
            "arm": (0, 0),
            "arm_step": (0, 0),
        }
    return shared | {
        "base": (center[0] - pads[0], center[1] - pads[1]),
        "base_step": (0, 0),
        "arm": (-center[0], -center[1]),
        "arm_step": grid.dilation,
    }


def pixel_strides(g: SumGeometry, array: DeviceArray | None) -> PixelStrides:
    """Strides of images (N, H, W, G, D), or (N, S, 1, G, D) of concatenated levels."""
    if array is None:
        return PixelStrides(0, 0, 0, 0, 0)
    n, row, col, group, channel = used_strides(array)
    if g.grid is None:
        return PixelStrides(n, row, 0, group, channel)
    return PixelStrides(n, col, row - g.levels[0].width * col, group, channel)


def position_strides(array: DeviceArray | None) -> PositionStrides:
    """Strides of an offset (N, OH, OW, G, P, 2), a mask (N, OH, OW, G, P), or its like."""
    if array is None:
        return PositionStrides(0, 0, 0, 0, 0, 0)
    return PositionStrides(*used_strides(array), *[0] * (6 - len(array.shape)))


def channel_strides(array: DeviceArray) -> PositionStrides:
    """Strides of an array like the output, (N, OH, OW, G, D)."""
    n, row, col, group, channel = used_strides(array)
    return PositionStrides(n, row, col, group, 0, channel)


def used_strides(array: DeviceArray) -> tuple[int, ...]:
    """Strides of an array, with 0 along axes of size 1."""
    return tuple(
        0 if size == 1 else stride for size, stride in zip(array.shape, array.strides, strict=True)
    )
