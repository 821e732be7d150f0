"""What the tiles of a call have in common: operands, geometry, the plan, the images on a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.arrays import Operands
from cudeform.cpu.products import taps_first
from cudeform.cpu.samples import Samples
from cudeform.cpu.sampling import samples
from cudeform.cpu.tiles import Item, Result, Tile, in_order, tiles
from cudeform.cpu.workspace import Plan
from cudeform.geometry import Geometry
from cudeform.options import Options
from cudeform.partition import split

Array = NDArray[Any]


# What one thread copies at a time.
COPIED_ELEMENTS = 2**17


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of the arithmetic on arrays of ``dtype``: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@dataclass(frozen=True)
class Table:
    """Some images with their channels last, as rows of one (pixel, offset group) each."""

    images: slice
    rows: Array


@dataclass(frozen=True)
class Call:
    """One call of the engine.

    Attributes:
        operands: arrays of any strides.
        g: their geometry.
        options: the caller's choices.
        plan: how the call is cut.
        weight: taps first, in the dtype of the arithmetic.
    """

    operands: Operands
    g: Geometry
    options: Options
    plan: Plan
    weight: Array

    @classmethod
    def of(
        cls,
        operands: Operands,
        g: Geometry,
        options: Options,
        planner: Callable[[Geometry, int, Options], Plan],
    ) -> Call:
        """Prepare a call."""
        dtype = compute_dtype(operands.input.dtype)
        plan = planner(g, dtype.itemsize, options)
        return cls(operands, g, options, plan, taps_first(g, operands.weight, dtype))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of coordinates, products and sums."""
        return self.weight.dtype

    def samples(self, table: Table, tile: Tile) -> Samples:
        """Where the taps of a tile sample."""
        offset, mask = self.operands.offset, self.operands.mask
        return samples(self.g, tile, table.images.start, offset, mask, self.dtype)

    def columns(self, at: Samples, table: Table) -> Array:
        """What the taps of a tile sample, (positions, taps * C)."""
        return self.by_position(at.columns(table.rows))

    def by_position(self, samples: Array) -> Array:
        """Values of all channels of samples, a row for each, as (positions, taps * C)."""
        positions = len(samples) // (self.g.taps * self.g.offset_groups)
        return samples.reshape(positions, self.g.taps * self.g.channels)

    def tiles(self, table: Table) -> list[Tile]:
        """Cover the output of the images on a table."""
        return tiles(self.g, table.images, self.plan.positions)

    def tables(self, array: Array) -> Iterator[Table]:
        """Put images (N, C, H, W) on channels-last tables; views where they already lie so."""
        g = self.g
        room = None
        for images in split(g.batch, self.plan.images):
            batch = array[images].transpose(0, 2, 3, 1)
            shape = (len(batch) * g.in_pixels * g.offset_groups, g.channels // g.offset_groups)
            if batch.dtype == self.dtype and batch.flags.c_contiguous:
                yield Table(images, batch.reshape(shape))
                continue
            room = self.table_room() if room is None else room
            rows = room[: shape[0]]
            self.copy(batch, rows.reshape(batch.shape))
            yield Table(images, rows)

    def table_room(self) -> Array:
        """Room for the rows of the largest table."""
        g = self.g
        rows = self.plan.images * g.in_pixels * g.offset_groups
        return np.empty((rows, g.channels // g.offset_groups), self.dtype)

    def copy(self, source: Array, target: Array) -> None:
        """Copy images, some of their rows on each thread."""

        def copy_rows(rows: slice) -> None:
            target[:, rows] = source[:, rows]

        few = source[:, :1].size
        self.do(copy_rows, split(source.shape[1], max(1, COPIED_ELEMENTS // max(1, few))))

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Work on the threads of the call; results in order."""

        def run(item: Item) -> Result:
            # Threads do not inherit NumPy's error state; infinity and NaN are values like others.
            with np.errstate(all="ignore"):
                return work(item)

        return in_order(run, items, self.plan.threads)

    def do(self, work: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Work on the threads of the call and wait until all is done."""
        for _ in self.each(work, items):
            pass
