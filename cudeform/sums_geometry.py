"""The sizes of operators that sum samples without a filter: deformable attention, DCNv3, DCNv4.

Each position of each group takes ``taps`` samples and adds them up, each times its weight:
``output[n, row, col, group, :] = sum over taps of mask * sample(input[n, :, group, :])``.

The engine has arrays in one canonical form, which is a view of what callers pass:

* input ``(N, H, W, G, D)``, or ``(N, S, 1, G, D)`` where levels lie one behind the other in S;
* offset ``(N, OH, OW, G, P, 2)``, pairs in the order (x, y); mask ``(N, OH, OW, G, P)``;
* output ``(N, OH, OW, G, D)``. Queries of an attention are rows, with OW = 1.

Along each axis a sample lies at ``whole + shift + factor * offset`` pixels, where ``whole``, the
integer ``base + stride * position``, is kept apart so that small offsets keep their precision.
Deformable attention has normalized locations: base 0, stride 0, shift -0.5, factor the size of the
level. DCNv3 has a grid scaled about its centre.
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
        first: its first pixel among those of all levels.
        height, width: its size.
        taps: number of samples that a position takes from it.
    """

    first: int
    height: int
    width: int
    taps: int


@dataclass(frozen=True)
class ScaledGrid:
    """Where the taps of DCNv3 lie without an offset. Pairs are in the order (x, y).

    Taps are counted column by column, ``tap = i_x * KH + i_y``; the centre may be left out.
    """

    kernel: Pair
    stride: Pair
    pad_begin: Pair
    dilation: Pair
    scale: float
    remove_center: bool

    @property
    def taps(self) -> int:
        """Samples of a position and group."""
        return self.kernel[0] * self.kernel[1] - self.remove_center

    @property
    def center(self) -> Pair:
        """From the first tap to the point about which the grid is scaled, in pixels."""
        (kx, ky), (dx, dy) = self.kernel, self.dilation
        return (dx * (kx - 1)) >> 1, (dy * (ky - 1)) >> 1

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> ScaledGrid:
        """A grid from its fields as JSON has them."""
        pairs = {name: tuple(each) for name, each in fields.items() if isinstance(each, list)}
        return ScaledGrid(**{**fields, **pairs})


@dataclass(frozen=True)
class Tap:
    """How the coordinates of a tap follow from its offset, along (x, y); see the module."""

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
        channels: D, those of one group.
        out: (OH, OW).
        levels: the images that samples are taken from; a single one with a grid.
        grid: the grid that offsets are added to; None if they are locations.
    """

    batch: int
    groups: int
    channels: int
    out: Pair
    levels: tuple[Level, ...]
    grid: ScaledGrid | None = None

    @property
    def pixels(self) -> int:
        """Pixels of an image, of all levels."""
        return sum(level.height * level.width for level in self.levels)

    @property
    def out_pixels(self) -> int:
        """Positions of the output of an image."""
        return self.out[0] * self.out[1]

    @property
    def is_empty(self) -> bool:
        """Whether the output has no elements, or no samples."""
        return 0 in (self.batch, self.groups, self.channels, self.taps, self.out_pixels)

    @property
    def taps(self) -> int:
        """Samples of a position and group."""
        return sum(level.taps for level in self.levels)

    @property
    def stride(self) -> Pair:
        """Pixels from one position to the next, along (x, y)."""
        return self.grid.stride if self.grid else (0, 0)

    @cached_property
    def tap_list(self) -> tuple[Tap, ...]:
        """Every tap, in the order of the arrays."""
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
        """The same call on another number of images."""
        return replace(self, batch=batch)

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> SumGeometry:
        """A geometry from its fields as JSON has them."""
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
