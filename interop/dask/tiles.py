"""Tiles of a deformable convolution: what each computes, what it reads, how far offsets may reach.

A tile is a box of output positions, one chunk of the offset in space. It is computed by a call of
its own, whose image is the *window* of the input that the tile can read. The geometry of that call
is ``Geometry.window``: displacements stay as they are, so no coordinate is rounded anew. The window
follows from the declared reach of the displacements and not from their values, so it is known
before anything is computed; each task checks its own displacements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from typing import Any

import numpy as np

from cudeform.geometry import Geometry, Span
from cudeform.settings import AXIS_NAMES, LARGEST

from .windows import borders

Reach = tuple[tuple[float, float], ...]  # for each axis how far back and how far forward

_LINES = {"depth": "slices", "height": "rows", "width": "columns"}


@dataclass(frozen=True)
class Tiles:
    """How a call is cut in space.

    Attributes:
        geometry: of the whole call.
        cuts: for each axis the borders of the tiles, in output positions.
        spans: for each axis the part of the input that each tile may read.
        reach: the declared reach of displacements; None if there is one tile and no declaration.
    """

    geometry: Geometry
    cuts: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[Span, ...], ...]
    reach: Reach | None

    @classmethod
    def of(cls, g: Geometry, chunks: Sequence[Sequence[int]], max_displacement: Any) -> Tiles:
        """Tiles for an offset of these chunks in space.

        Raises:
            ValueError: there are several tiles, and nothing says how far displacements reach.
        """
        cuts = tuple(borders(each) for each in chunks)
        if max_displacement is not None:
            reach = as_reach(max_displacement, g.axes)
            spans = tuple(_spans(g, axis, cuts[axis], reach[axis]) for axis in range(g.axes))
            return cls(g, cuts, spans, reach)
        if any(len(each) > 1 for each in chunks):
            whole = ", ".join(f"{axis + 2}: -1" for axis in range(g.axes))
            raise ValueError(
                "max_displacement must be given where the offset has more than one chunk in "
                f"space, got chunks {tuple(map(tuple, chunks))}: say how far, in pixels, an offset "
                f"may reach, cudeform.options(max_displacement=...), or rechunk({{{whole}}})"
            )
        return cls(g, cuts, tuple(((0, size),) for size in g.size), None)

    def tile(self, index: Sequence[int], batch: int) -> Geometry:
        """Geometry of the call for a tile, whose image is its window."""
        out = [(cuts[i], cuts[i + 1]) for cuts, i in zip(self.cuts, index, strict=True)]
        read = [spans[i] for spans, i in zip(self.spans, index, strict=True)]
        return self.geometry.window(batch, out, read)

    def check(self, offset: Any, index: Sequence[int]) -> None:
        """Refuse displacements of a tile beyond the reach, unless they lead out of the image.

        Raises:
            ValueError: a sample in the image has a larger displacement.
        """
        if self.reach is None or offset.size == 0:
            return
        axes = self.geometry.axes
        beyond = (
            _least(offset[:, axis::axes]) < -back or _most(offset[:, axis::axes]) > forward
            for axis, (back, forward) in enumerate(self.reach)
        )
        if any(beyond):
            self._check_samples(offset, index)

    def _check_samples(self, offset: Any, index: Sequence[int]) -> None:
        """The exact check, a tap at a time, for tiles that have a displacement beyond the reach."""
        assert self.reach is not None
        found: dict[int, list[float]] = {}
        for displacements, in_image in self._samples(offset, index):
            for axis, (back, forward) in enumerate(self.reach):
                moved = displacements[axis]
                refused = moved[in_image & ((moved < -back) | (moved > forward))]
                if refused.size:
                    seen = found.setdefault(axis, [0.0, 0.0])
                    seen[0] = min(seen[0], float(refused.min()))
                    seen[1] = max(seen[1], float(refused.max()))
        for axis, (least, most) in found.items():
            names = AXIS_NAMES[-self.geometry.axes :]
            at = ", ".join(
                f"{_LINES[name]} {cuts[i]}:{cuts[i + 1]}"
                for name, cuts, i in zip(names, self.cuts, index, strict=True)
            )
            back, forward = self.reach[axis]
            raise ValueError(
                f"offset must stay within max_displacement: d{'zyx'[-self.geometry.axes :][axis]} "
                f"in [{-back:g}, {forward:g}], got [{least:g}, {most:g}] in {at}; "
                "declare a larger one"
            )

    def _samples(self, offset: Any, index: Sequence[int]) -> Iterator[tuple[list[Any], Any]]:
        """For each tap: its displacements along each axis, and which samples are in the image."""
        g = self.geometry
        starts = [cuts[i] for cuts, i in zip(self.cuts, index, strict=True)]
        for channel in range(0, offset.shape[1], g.axes):
            tap = np.unravel_index(channel // g.axes % g.taps, g.kernel)
            moves = [offset[:, channel + axis].astype("float64") for axis in range(g.axes)]
            in_image = np.ones_like(moves[0], bool)
            for axis, moved in enumerate(moves):
                first = starts[axis] * g.stride[axis] - g.pad_begin[axis]
                first += int(tap[axis]) * g.dilation[axis]
                shape = [-1 if each == axis else 1 for each in range(g.axes)]
                steps = np.arange(moved.shape[axis + 1], like=moved).reshape(shape)
                at = moved + (first + steps * g.stride[axis])
                in_image &= (at > -1) & (at < g.size[axis])
            yield moves, in_image


def as_reach(max_displacement: Any, axes: int) -> Reach:
    """How far back and forward displacements reach along each axis.

    Args:
        max_displacement: a number, one an axis, or (back, forward) an axis.
        axes: how many axes there are.

    Raises:
        ValueError: something else.
    """
    each = max_displacement if isinstance(max_displacement, tuple) else (max_displacement,) * axes
    pairs = tuple(tuple(two) if isinstance(two, tuple) else (two, two) for two in each)
    if len(pairs) != axes or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"max_displacement must be a number, or for each of {axes} axes a number or a pair "
            f"(back, forward), got {max_displacement}"
        )
    return tuple((float(back), float(forward)) for back, forward in pairs)


def _spans(
    g: Geometry, axis: int, cuts: Sequence[int], reach: tuple[float, float]
) -> tuple[Span, ...]:
    """What each tile may read along an axis, corners of weight 0 included; never empty."""
    size, stride, pad = g.size[axis], g.stride[axis], g.pad_begin[axis]
    back, forward = (min(each, LARGEST) for each in reach)
    extent = g.dilation[axis] * (g.kernel[axis] - 1)
    spans = []
    for first, after in pairwise(cuts):
        start = first * stride - pad - ceil(back)
        stop = (after - 1) * stride - pad + extent + floor(forward) + 2
        start = min(max(start, 0), size - 1)
        spans.append((start, max(min(stop, size), start + 1)))
    return tuple(spans)


def _least(array: Any) -> float:
    return float(np.fmin.reduce(array, axis=None))


def _most(array: Any) -> float:
    return float(np.fmax.reduce(array, axis=None))
