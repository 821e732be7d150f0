"""What the boxes of a call have in common: operands, sizes, how it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.arrays import Operands
from cudeform.cpu.layouts import SampleArrays
from cudeform.cpu.loops.arguments import Sizes
from cudeform.cpu.products import columns_groups, taps_first
from cudeform.cpu.threads import Item, Scratch, run
from cudeform.cpu.tiling import Box, Costs, Tiling, tiling
from cudeform.geometry import Geometry
from cudeform.options import Options, available_threads

Array = NDArray[Any]


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of the arithmetic on arrays of ``dtype``: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@lru_cache(maxsize=256)
def _cut(
    g: Geometry, itemsize: int, costs: Callable[[Geometry, int], Costs], limit: int | None
) -> tuple[Sizes, Tiling]:
    """What depends on sizes alone."""
    columns = g.taps * g.channels * itemsize
    return Sizes.of(g, columns_groups(g)), tiling(g, columns, costs(g, itemsize), limit)


@dataclass(frozen=True)
class Call:
    """One call of the engine.

    Attributes:
        operands: arrays of any strides.
        g: their geometry.
        sizes: the same for the loops.
        options: the caller's choices.
        tiling: how the call is cut.
        threads: how many work.
        weight: taps first, in the dtype of the arithmetic.
        samples: offset and mask.
    """

    operands: Operands
    g: Geometry
    sizes: Sizes
    options: Options
    tiling: Tiling
    threads: int
    weight: Array
    samples: SampleArrays

    @classmethod
    def of(
        cls,
        operands: Operands,
        g: Geometry,
        options: Options,
        costs: Callable[[Geometry, int], Costs],
    ) -> Call:
        """Prepare a call."""
        dtype = compute_dtype(operands.input.dtype)
        sizes, cut = _cut(g, dtype.itemsize, costs, options.workspace_limit)
        return cls(
            operands=operands,
            g=g,
            sizes=sizes,
            options=options,
            tiling=cut,
            threads=min(options.num_threads or available_threads(), cut.workers),
            weight=taps_first(g, operands.weight, dtype),
            samples=SampleArrays.of(g, operands.offset, operands.mask, dtype),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of coordinates, products and sums."""
        return self.weight.dtype

    def columns_room(self) -> Array:
        """Scratch memory for the columns of a box."""
        return np.empty(self.tiling.positions * self.g.taps * self.g.channels, self.dtype)

    def columns_of(self, room: Array, positions: int) -> Array:
        """The part of that memory which a box of so many positions takes, by group."""
        groups = columns_groups(self.g)
        length = self.g.taps * (self.g.channels // groups)
        return room[: groups * positions * length].reshape(groups, positions, length)

    def product_room(self) -> Array:
        """Scratch memory for the output of a box."""
        return np.empty(self.tiling.positions * self.g.out_channels, self.dtype)

    def product_of(self, room: Array, positions: int) -> Array:
        """The part of that memory which so many positions take, (groups, positions, O/groups)."""
        groups = columns_groups(self.g)
        size = positions * self.g.out_channels
        return room[:size].reshape(groups, positions, self.g.out_channels // groups)

    def boxes(self, images: slice) -> list[Box]:
        """Cover the output of some images."""
        return self.tiling.boxes(self.g, images)

    def run(
        self,
        work: Callable[[Item, Scratch], None],
        items: Sequence[Item],
        scratch: Callable[[], Scratch],
    ) -> None:
        """Work on the threads of the call and wait until all is done."""
        run(work, items, self.threads, scratch)
