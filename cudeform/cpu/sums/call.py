"""The data that all boxes of a call share: sizes of its parts, threads, the compute dtype.

A box is a range of positions of one image. How a call is cut depends on sizes and the limit of
scratch memory, never on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.call import compute_dtype
from cudeform.cpu.sums.arrays import BoxArrays, PositionArray
from cudeform.cpu.sums.images import in_place
from cudeform.cpu.threads import Item, Scratch, run
from cudeform.cpu.tiling import BOXES_MULTIPLE, DEFAULT_LIMIT, IMAGES_BYTES, Box
from cudeform.options import Options, available_threads
from cudeform.partition import split
from cudeform.sums_geometry import SumGeometry

Array = NDArray[Any]

# Channels of samples that a box adds up: below, waking a thread takes longer than the box.
BOX_WORK = 2**18


@dataclass(frozen=True)
class SumCall:
    """One call.

    Attributes:
        g: geometry of the call.
        options: the caller's options.
        dtype: the compute dtype.
        images: number of images that are converted at a time, if they are.
        positions: maximum number of positions of a box.
        threads: number of threads that work on the call.
    """

    g: SumGeometry
    options: Options
    dtype: np.dtype[Any]
    images: int
    positions: int
    threads: int

    @classmethod
    def of(
        cls, g: SumGeometry, options: Options, images: Sequence[Array], *boxes: BoxArrays
    ) -> SumCall:
        """Choose the sizes of the parts of a call.

        Args:
            g: geometry of the call.
            options: the caller's options.
            images: images of the call, their tangents and gradients.
            boxes: arrays of positions of each pass of the call.

        Raises:
            ValueError: the limit of the scratch memory is too small for a single position.
        """
        dtype = compute_dtype(images[0].dtype)
        position = max(each.copied for each in boxes) * dtype.itemsize
        limit = options.workspace_limit
        limit = max(DEFAULT_LIMIT, position) if limit is None else limit
        if limit < position:
            raise ValueError(
                f"workspace_limit must be at least {position} bytes for this call (a copy of one "
                f"output position in {dtype}), got {limit}"
            )
        image = len(images) * prod(images[0].shape[1:]) * dtype.itemsize
        together = 1
        if not in_place(images, dtype):
            together = max(1, min(g.batch, min(IMAGES_BYTES, limit // 4) // max(1, image)))
            limit -= image * together if together > 1 else 0
        positions = _box_positions(g)
        workers = g.batch * g.out_pixels
        if position:
            positions = max(1, min(positions, limit // BOXES_MULTIPLE // position))
            workers = max(1, limit // (positions * position))
        threads = min(options.num_threads or available_threads(), workers)
        return cls(g, options, dtype, together, positions, threads)

    def boxes(self, images: slice) -> list[Box]:
        """Boxes that cover the output of a range of images, each within one of them."""
        return [box for n in range(images.start, images.stop) for box in self.boxes_of(n)]

    def boxes_of(self, n: int) -> list[Box]:
        """Boxes that cover the output of an image."""
        parts = split(self.g.out_pixels, self.positions)
        return [Box(part.start, part.stop, slice(n, n + 1)) for part in parts]

    def run(
        self,
        work: Callable[[Item, Scratch], None],
        items: Sequence[Item],
        scratch: Callable[[], Scratch],
    ) -> None:
        """Run ``work`` on all items, on the threads of the call, and wait until all are done."""
        run(work, items, self.threads, scratch)


def sample_arrays(offset: Array | None, mask: Array | None, like: Array) -> tuple[Any, Any]:
    """Offset and mask, their tangents or their gradients, in the compute dtype of ``like``."""
    dtype = compute_dtype(like.dtype)
    return PositionArray.of(offset, dtype), PositionArray.of(mask, dtype)


def output_array(array: Array | None, like: Array) -> PositionArray:
    """An output, its tangent or its gradient, in the compute dtype of ``like``."""
    return PositionArray.of(array, compute_dtype(like.dtype), channels=True)


def _box_positions(g: SumGeometry) -> int:
    """Number of positions per box: a multiple of four boxes over the batch if there are several."""
    work = g.batch * g.out_pixels * g.groups * g.taps * g.channels
    quadruples = max(1, round(work / (BOXES_MULTIPLE * BOX_WORK)))
    return max(1, -(-g.batch * g.out_pixels // (BOXES_MULTIPLE * quadruples)))
