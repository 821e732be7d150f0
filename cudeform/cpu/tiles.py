"""How the CPU engine cuts a call into tiles and works through them, in a fixed order.

The cut depends on sizes and on the workspace limit, never on the number of threads, and results are
consumed in the order of the tiles: this is what makes every sum independent of the threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

from numpy.typing import NDArray

from cudeform.geometry import Geometry
from cudeform.partition import split

Array = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Tile:
    """A box of output positions: some whole images, or some rows of one, or a part of one row."""

    images: slice
    rows: slice
    cols: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, rows and columns of the box."""
        return _length(self.images), _length(self.rows), _length(self.cols)

    @property
    def positions(self) -> int:
        """Output positions in the box."""
        return prod(self.shape)

    @property
    def box(self) -> tuple[slice, slice, slice, slice]:
        """Index of the box in an array (N, channels, OH, OW)."""
        return self.images, slice(None), self.rows, self.cols

    def planes(self, values: Array, taps: int, offset_groups: int) -> Array:
        """Values of the samples of the box, in their order, as (images, OG, taps, rows, cols)."""
        return values.reshape(*self.shape, taps, offset_groups).transpose(0, 4, 3, 1, 2)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def tiles(geometry: Geometry, images: slice, most: int) -> list[Tile]:
    """Cover the output of ``images`` with tiles of at most ``most`` positions (at least one)."""
    whole_rows, whole_cols = slice(0, geometry.out_h), slice(0, geometry.out_w)
    if most >= geometry.out_pixels:
        return [
            Tile(_shift(part, images.start), whole_rows, whole_cols)
            for part in split(_length(images), most // geometry.out_pixels)
        ]
    boxes = []
    for image in range(images.start, images.stop):
        one = slice(image, image + 1)
        if most >= geometry.out_w:
            # Two or four threads then finish together.
            rows = split(geometry.out_h, most // geometry.out_w, multiple=4)
            boxes += [Tile(one, part, whole_cols) for part in rows]
        else:
            cols = split(geometry.out_w, most)
            boxes += [
                Tile(one, slice(row, row + 1), part)
                for row in range(geometry.out_h)
                for part in cols
            ]
    return boxes


def _shift(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> Iterator[Result]:
    """Map ``function`` over ``items`` on ``threads`` threads; results in the order of the items.

    At most ``threads + 1`` results are in the making or waiting at any time: memory is bounded, and
    no thread idles while the first of them is slow.
    """
    if threads == 1 or len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            if len(waiting) > threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()


def panels(boxes: list[Tile], most: int) -> Iterator[list[Tile]]:
    """Join tiles, in order, into runs of at most ``most`` positions (at least one tile)."""
    run: list[Tile] = []
    positions = 0
    for tile in boxes:
        if run and positions + tile.positions > most:
            yield run
            run, positions = [], 0
        run.append(tile)
        positions += tile.positions
    if run:
        yield run
