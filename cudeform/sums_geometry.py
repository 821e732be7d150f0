"""The sizes of operators that sum samples without a filter: deformable attention, DCNv3, DCNv4.

The output at a position and group is the sum of ``taps`` samples, each times its weight:
``output[n, row, col, group, :] = sum over taps of mask * sample(input[n, :, group, :])``.

The engine takes arrays in one canonical form, which is a view of the caller's arrays:

* input ``(N, H, W, G, D)``, or ``(N, S, 1, G, D)`` with the pixels of all levels concatenated in S;
* offset ``(N, OH, OW, G, P, 2)``, pairs in the order (x, y); mask ``(N, OH, OW, G, P)``;
* output ``(N, OH, OW, G, D)``. The queries of an attention are rows, and OW is 1.

Along each axis, the coordinate of a sample is ``whole + shift + factor * offset`` pixels. ``whole``
is the integer ``base + stride * position``; it is not added in floating point, so that small
offsets keep their precision. Deformable attention has normalised locations: base 0, stride 0, shift
-0.5, and the size of the level as factor. DCNv3 has a grid that is scaled about its centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Pair = tuple[int, int]
Scales = tuple[float, float]


@dataclass(frozen=True)
class Level:
    """An image of a pyramid.

    Attributes:
        first: index of its first pixel among the pixels of all levels.
        height, width: size of the level.
        taps: number of samples of a position in this level.
    """

    first: int
    height: int
    width: int
    taps: int


@dataclass(frozen=True)
class ScaledGrid:
    """The grid of the taps of DCNv3 without an offset. Pairs are in the order (x, y).

    Taps are numbered column by column, ``tap = i_x * KH + i_y``; the centre may be omitted.
    """

    kernel: Pair
    stride: Pair
    pad_begin: Pair
    dilation: Pair
    scale: float
    remove_center: bool

    @property
    def taps(self) -> int:
        """Number of samples of a position and group."""
        return self.kernel[0] * self.kernel[1] - self.remove_center

    @property
    def center(self) -> Pair:
        """Distance from the first tap to the centre of the scaling, in pixels."""
        (kx, ky), (dx, dy) = self.kernel, self.dilation
        return (dx * (kx - 1)) >> 1, (dy * (ky - 1)) >> 1

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> ScaledGrid:
        """A grid from its fields, decoded from JSON."""
        pairs = {name: tuple(each) for name, each in fields.items() if isinstance(each, list)}
        return ScaledGrid(**{**fields, **pairs})


@dataclass(frozen=True)
class Tap:
    """The numbers that give the coordinates of a tap along (x, y); see the module."""

    level: int
    base: Pair
    shift: Scales
    factor: Scales


@dataclass(frozen=True)
class SumGeometry:
    """The sizes of one call.

    Attributes:
        batch: N.
        groups: G, the heads of an attention.
        channels: D, the channels of one group.
        out: (OH, OW).
        levels: the images that are sampled; a single one if there is a grid.
        grid: the grid to which offsets are added; None if the offsets are locations.
    """

    batch: int
    groups: int
    channels: int
    out: Pair
    levels: tuple[Level, ...]
    grid: ScaledGrid | None = None

    @property
    def pixels(self) -> int:
        """Number of pixels of an image, over all levels."""
        return sum(level.height * level.width for level in self.levels)

    @property
    def out_pixels(self) -> int:
        """Number of output positions of an image."""
        return self.out[0] * self.out[1]

    @property
    def is_empty(self) -> bool:
        """Whether the output or the images have no elements, or no sample is taken."""
        sizes = (self.batch, self.groups, self.channels, self.taps, self.pixels, *self.out)
        return 0 in sizes

    @property
    def taps(self) -> int:
        """Number of samples of a position and group."""
        return sum(level.taps for level in self.levels)

    @property
    def stride(self) -> Pair:
        """Distance of adjacent positions in pixels, along (x, y)."""
        return self.grid.stride if self.grid else (0, 0)

    @cached_property
    def tap_list(self) -> tuple[Tap, ...]:
        """All taps, in the order of the arrays."""
        if self.grid is None:
            return tuple(
                Tap(at, (0, 0), (-0.5, -0.5), (float(level.width), float(level.height)))
                for at, level in enumerate(self.levels)
                for _ in range(level.taps)
            )
        kx, ky = self.grid.kernel
        return tuple(
            _grid_tap(self.grid, (x, y))
            for x in range(kx)
            for y in range(ky)
            if not (self.grid.remove_center and (x, y) == (kx // 2, ky // 2))
        )

    def with_batch(self, batch: int) -> SumGeometry:
        """This call with another number of images."""
        return replace(self, batch=batch)

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> SumGeometry:
        """A geometry from its fields, decoded from JSON."""
        grid = fields["grid"]
        return SumGeometry(
            batch=fields["batch"],
            groups=fields["groups"],
            channels=fields["channels"],
            out=tuple(fields["out"]),
            levels=tuple(Level(**level) for level in fields["levels"]),
            grid=None if grid is None else ScaledGrid.of_fields(grid),
        )


def _grid_tap(grid: ScaledGrid, at: Pair) -> Tap:
    pads, centers, scale = grid.pad_begin, grid.center, grid.scale
    reach = (at[0] * grid.dilation[0], at[1] * grid.dilation[1])
    if scale == 1.0:
        return Tap(0, (reach[0] - pads[0], reach[1] - pads[1]), (0.0, 0.0), (1.0, 1.0))
    return Tap(
        0,
        (centers[0] - pads[0], centers[1] - pads[1]),
        ((reach[0] - centers[0]) * scale, (reach[1] - centers[1]) * scale),
        (scale, scale),
    )
