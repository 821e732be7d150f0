"""The sizes of a sum as its kernels take them."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from cudeform.arrays import DeviceArray
from cudeform.gpu.device_api.structs import divisor
from cudeform.gpu.device_api.sums_params import (
    MAX_LEVELS,
    PixelStrides,
    PositionStrides,
    SumLevel,
    SumProblem,
)
from cudeform.sums_geometry import ScaledGrid, SumGeometry

NO_LEVEL = SumLevel(size=(0, 0), end_tap=0, first_pixel=0, first_cell=0, factor=(0.0, 0.0))


def sum_problem(
    g: SumGeometry, *, lanes: int, vectors: int, zero_boundary_grad: bool
) -> SumProblem:
    """The problem of a call.

    Args:
        g: sizes.
        lanes: adjacent threads that share an item.
        vectors: of an item for each lane.
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
    """Cells between the pixels of a level, those that reach beyond it included."""
    return (width + 1) * (height + 1)


def cells_of_image(g: SumGeometry) -> int:
    """Cells of all levels."""
    return sum(cells_of(level.width, level.height) for level in g.levels)


# A location is the coordinate, but for the unit and half a pixel.
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
    """Strides of images (N, H, W, G, D), or (N, S, 1, G, D) where levels lie behind each other."""
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
    """Strides, 0 along axes of size 1, where they do not matter."""
    return tuple(
        0 if size == 1 else stride for size, stride in zip(array.shape, array.strides, strict=True)
    )
