"""Tiles of a deformable convolution: their outputs, their windows of the input, and the reach.

A tile is a rectangle of output positions, one chunk of the offset in space. One call of the engine
computes it; its image is the *window* of the input that the tile may read. The geometry of this
call is ``Geometry.window``. It leaves displacements unchanged, so coordinates keep their rounding.
The window depends on the declared maximum displacement, the *reach*, and not on the values of the
offset, so it is known before anything is computed. Each task checks its own displacements.
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

Reach = tuple[tuple[float, float], ...]  # (back, forward) for each axis, in pixels

_LINES = {"depth": "slices", "height": "rows", "width": "columns"}


@dataclass(frozen=True)
class Tiles:
    """How a call is cut in space; cuts and spans are empty if it is computed for whole images.

    Attributes:
        geometry: geometry of the whole call.
        cuts: for each axis, the borders of the tiles in output positions.
        spans: for each axis, the range of the input that each tile may read.
        reach: the declared reach; None if there is a single tile and nothing was declared.
    """

    geometry: Any
    cuts: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[Span, ...], ...]
    reach: Reach | None

    @classmethod
    def of(cls, g: Geometry, chunks: Sequence[Sequence[int]], max_displacement: Any) -> Tiles:
        """Tiles for an offset with the given chunks in space.

        Raises:
            ValueError: there are several tiles, and no maximum displacement was declared.
        """
        cuts = tuple(borders(each) for each in chunks)
        if max_displacement is not None:
            reach = as_reach(max_displacement, g.axes)
            spans = tuple(_spans(g, axis, cuts[axis], reach[axis]) for axis in range(g.axes))
            return cls(g, cuts, spans, reach)
        if any(len(each) > 1 for each in chunks):
            whole = ", ".join(f"{axis + 2}: -1" for axis in range(g.axes))
            raise ValueError(
                "max_displacement must be given if the offset has more than one chunk in "
                f"space, got chunks {tuple(map(tuple, chunks))}: say how far, in pixels, an offset "
                f"may reach, cudeform.options(max_displacement=...), or rechunk({{{whole}}})"
            )
        return cls(g, cuts, tuple(((0, size),) for size in g.size), None)

    def tile(self, index: Sequence[int], batch: int) -> Any:
        """Geometry of the call for a tile, whose image is its window."""
        if not self.cuts:
            return self.geometry.with_batch(batch)
        out = [(cuts[i], cuts[i + 1]) for cuts, i in zip(self.cuts, index, strict=True)]
        read = [spans[i] for spans, i in zip(self.spans, index, strict=True)]
        return self.geometry.window(batch, out, read)

    def check(self, offset: Any, index: Sequence[int]) -> None:
        """Refuse displacements of a tile beyond the reach, unless the sample is outside the image.

        Raises:
            ValueError: the displacement of a sample in the image is larger.
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
        """Check a tile that has a displacement beyond the reach exactly, one tap at a time."""
        assert self.reach is not None
        found: dict[int, list[float]] = {}
        for displacements, in_image in self._samples(offset, index):
            for axis, (back, forward) in enumerate(self.reach):
                along = displacements[axis]
                refused = along[in_image & ((along < -back) | (along > forward))]
                if refused.size:
                    seen = found.setdefault(axis, [0.0, 0.0])
                    seen[0] = min(seen[0], float(refused.min()))
                    seen[1] = max(seen[1], float(refused.max()))
        for axis, (least, most) in found.items():
            names = AXIS_NAMES[-self.geometry.axes :]
            where = ", ".join(
                f"{_LINES[name]} {cuts[i]}:{cuts[i + 1]}"
                for name, cuts, i in zip(names, self.cuts, index, strict=True)
            )
            back, forward = self.reach[axis]
            raise ValueError(
                f"offset must stay within max_displacement: d{'zyx'[-self.geometry.axes :][axis]} "
                f"in [{-back:g}, {forward:g}], got [{least:g}, {most:g}] in {where}; "
                "declare a larger one"
            )

    def _samples(self, offset: Any, index: Sequence[int]) -> Iterator[tuple[list[Any], Any]]:
        """For each tap, its displacements by axis, and whether each sample is in the image."""
        g = self.geometry
        starts = [cuts[i] for cuts, i in zip(self.cuts, index, strict=True)]
        for channel in range(0, offset.shape[1], g.axes):
            tap = np.unravel_index(channel // g.axes % g.taps, g.kernel)
            displacements = [offset[:, channel + axis].astype("float64") for axis in range(g.axes)]
            in_image = np.ones_like(displacements[0], bool)
            for axis, along in enumerate(displacements):
                first = starts[axis] * g.stride[axis] - g.pad_begin[axis]
                first += int(tap[axis]) * g.dilation[axis]
                shape = [-1 if each == axis else 1 for each in range(g.axes)]
                steps = np.arange(along.shape[axis + 1], like=along).reshape(shape)
                coordinate = along + (first + steps * g.stride[axis])
                in_image &= (coordinate > -1) & (coordinate < g.size[axis])
            yield displacements, in_image


def as_reach(max_displacement: Any, axes: int) -> Reach:
    """Convert ``max_displacement`` to a pair (back, forward) for each axis.

    Args:
        max_displacement: a number, one number per axis, or (back, forward) per axis.
        axes: number of axes.

    Raises:
        ValueError: ``max_displacement`` has another form.
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
    """The range that each tile may read along an axis, never empty, with corners of weight 0."""
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
