"""The data that all boxes of a call share: operands, sizes, tiling."""

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
from cudeform.cpu.tiling import Box, Costs, Tiling, choose_tiling
from cudeform.geometry import Geometry
from cudeform.options import Options, available_threads

Array = NDArray[Any]


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype in which arrays of ``dtype`` are computed: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@lru_cache(maxsize=256)
def _sizes_and_tiling(
    g: Geometry, itemsize: int, costs: Callable[[Geometry, int], Costs], limit: int | None
) -> tuple[Sizes, Tiling]:
    """The sizes for the loops, and the tiling. Both depend on sizes and options alone."""
    columns = g.taps * g.channels * itemsize
    return Sizes.of(g, columns_groups(g)), choose_tiling(g, columns, costs(g, itemsize), limit)


@dataclass(frozen=True)
class Call:
    """One call of the engine.

    Attributes:
        operands: the caller's arrays, with any strides.
        g: geometry of the call.
        sizes: the geometry in the form that the loops take.
        options: the caller's options.
        tiling: how the call is cut into boxes.
        threads: number of threads that work on the call.
        weight: the weight with its taps first, in the compute dtype.
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
        """Cut a call into boxes and convert its weight."""
        dtype = compute_dtype(operands.input.dtype)
        sizes, cut = _sizes_and_tiling(g, dtype.itemsize, costs, options.workspace_limit)
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
        """The compute dtype: that of coordinates, products and sums."""
        return self.weight.dtype

    def allocate_columns(self) -> Array:
        """Allocate scratch memory for the columns of a box."""
        return np.empty(self.tiling.positions * self.g.taps * self.g.channels, self.dtype)

    def view_columns(self, buffer: Array, positions: int) -> Array:
        """The first part of such memory as columns (groups, positions, taps * C/groups)."""
        groups = columns_groups(self.g)
        length = self.g.taps * (self.g.channels // groups)
        return buffer[: groups * positions * length].reshape(groups, positions, length)

    def allocate_product(self) -> Array:
        """Allocate scratch memory for the output of a box."""
        return np.empty(self.tiling.positions * self.g.out_channels, self.dtype)

    def view_product(self, buffer: Array, positions: int) -> Array:
        """The first part of such memory as an output (groups, positions, O/groups)."""
        groups = columns_groups(self.g)
        size = positions * self.g.out_channels
        return buffer[:size].reshape(groups, positions, self.g.out_channels // groups)

    def boxes(self, images: slice) -> list[Box]:
        """Boxes that cover the output of a range of images."""
        return self.tiling.boxes(self.g, images)

    def run(
        self,
        work: Callable[[Item, Scratch], None],
        items: Sequence[Item],
        scratch: Callable[[], Scratch],
    ) -> None:
        """Run ``work`` on all items, on the threads of the call, and wait until all are done."""
        run(work, items, self.threads, scratch)
