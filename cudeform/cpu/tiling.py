"""Cuts a call into images, panels and boxes, so that scratch memory stays within its limit.

A range of images is converted to channels-last at a time. Their output positions, numbered through
all of these images, are cut into *boxes*, the work items of threads. The backward stores the
columns of a run of boxes, a *panel*, for products over many positions. The cut depends on sizes and
the limit, never on the number of threads, so no sum depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from cudeform.geometry import Geometry
from cudeform.partition import split
from cudeform.settings import PerAxis

DEFAULT_LIMIT = 64 * 2**20

# The columns of a box should fit into a core's cache. But a product of fewer than PRODUCT_POSITIONS
# positions costs more than columns that are read from the next cache level.
BOX_BYTES = 2**21
PRODUCT_POSITIONS = 256

# With a multiple of four boxes, two or four threads finish at the same time. Boxes below these
# sizes are not worth waking a thread.
FOURS = 4
LEAST_BYTES = 2**16
LEAST_POSITIONS = 32

# Small images are processed together: a single one would not occupy all threads.
IMAGES_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Costs:
    """Bytes of scratch memory.

    Attributes:
        image: bytes of a channels-last image, and of its gradient in the backward.
        fixed: bytes that a call uses from start to end.
        kept: bytes per output position until its panel is done.
        position: bytes per output position while its box is processed.
    """

    image: int
    fixed: int
    kept: int
    position: int


@dataclass(frozen=True)
class Rectangle:
    """Positions of one image that form a rectangle: one slice per axis.

    Attributes:
        image, slices: indices of the rectangle in an array (N, channels, *out).
        part: the same positions as a slice of the box's positions.
    """

    image: int
    slices: tuple[slice, ...]
    part: slice

    @property
    def index(self) -> tuple[int | slice, ...]:
        """Index into an array (N, channels, *out)."""
        return self.image, slice(None), *self.slices


@dataclass(frozen=True)
class Box:
    """A range of output positions.

    Attributes:
        first, last: begin and end of the range, numbered through ``images``.
        images: the images that are converted together, a range of the batch.
        index: index of this box among the boxes of these images.
    """

    first: int
    last: int
    images: slice
    index: int = 0

    def __len__(self) -> int:
        """Number of positions."""
        return self.last - self.first

    def rectangles(self, g: Geometry) -> Iterator[Rectangle]:
        """Cut the box into rectangles, each in one image."""
        at = self.first
        while at < self.last:
            n, position = divmod(at, g.out_pixels)
            left = min(self.last - at, g.out_pixels - position)
            slices, count = _rectangle(g.out, position, left)
            part = slice(at - self.first, at - self.first + count)
            yield Rectangle(self.images.start + n, slices, part)
            at += count


def _rectangle(out: PerAxis, position: int, left: int) -> tuple[tuple[slice, ...], int]:
    """The largest rectangle that starts at a position of an image, and its number of positions.

    The rectangle is a range along one axis, a single index along the axes before it, and the whole
    axis along those after it.
    """
    behind = prod(out)  # number of positions that one index of this axis covers
    slices: list[slice] = []
    for axis, size in enumerate(out):
        behind //= size
        index, position = divmod(position, behind)
        if position == 0 and left >= behind:
            several = min(left // behind, size - index)
            whole = (slice(0, each) for each in out[axis + 1 :])
            return (*slices, slice(index, index + several), *whole), several * behind
        slices.append(slice(index, index + 1))
    raise AssertionError("along the last axis, one index covers exactly one position")


@dataclass(frozen=True)
class Tiling:
    """How a call is cut.

    Attributes:
        images: number of images that are converted at a time.
        positions: maximum number of output positions in a box.
        panel: maximum number of output positions whose columns are stored.
        workers: maximum number of boxes that are processed at a time.
    """

    images: int
    positions: int
    panel: int
    workers: int

    def boxes(self, g: Geometry, images: slice) -> list[Box]:
        """Boxes that cover the output of a range of images."""
        size = (images.stop - images.start) * g.out_pixels
        parts = enumerate(split(size, self.positions))
        return [Box(part.start, part.stop, images, index) for index, part in parts]

    def panels(self, boxes: list[Box]) -> Iterator[list[Box]]:
        """Group boxes, in order, into runs of at most ``panel`` positions and at least one box."""
        run: list[Box] = []
        for box in boxes:
            if run and box.last - run[0].first > self.panel:
                yield run
                run = []
            run.append(box)
        if run:
            yield run


def tiling(g: Geometry, columns: int, costs: Costs, limit: int | None) -> Tiling:
    """Choose the sizes of the parts of a call.

    Args:
        g: geometry of the call.
        columns: bytes of the columns of one position.
        costs: scratch memory that the parts need.
        limit: limit of the scratch memory in bytes; None for the default.

    Raises:
        ValueError: the limit is too small for a single position.
    """
    least = costs.fixed + costs.kept + costs.position
    if limit is None:
        limit = max(DEFAULT_LIMIT, least)
    if limit < least:
        raise ValueError(
            f"workspace_limit must be at least {least} bytes for this call (the weight with its "
            f"taps moved, and one output position), got {limit}"
        )
    room = limit - costs.fixed
    spare = room - costs.kept - costs.position
    together = min(IMAGES_BYTES, room // 4, spare) // max(1, costs.image)
    images = max(1, min(g.batch, together))
    room -= (images > 1) * images * costs.image
    kept = min(room // 2, room - costs.position)
    panel = max(1, kept // costs.kept) if costs.kept else g.batch * g.out_pixels
    room -= panel * costs.kept
    wanted = _box_positions(images * g.out_pixels, columns)
    positions = max(1, min(wanted, panel, room // 4 // costs.position))
    workers = max(1, room // (positions * costs.position))
    return Tiling(images=images, positions=positions, panel=panel, workers=workers)


def _box_positions(size: int, columns: int) -> int:
    """Number of positions per box when ``size`` positions are cut into boxes."""
    columns = max(1, columns)
    wanted = max(PRODUCT_POSITIONS, BOX_BYTES // columns)
    fours = max(1, round(size / (FOURS * wanted)))
    return max(LEAST_POSITIONS, LEAST_BYTES // columns, -(-size // (FOURS * fours)))
