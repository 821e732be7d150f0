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
from typing import Protocol

from cudeform.geometry import Geometry
from cudeform.partition import split
from cudeform.settings import PerAxis

DEFAULT_LIMIT = 64 * 2**20

# The columns of a box should fit into a core's cache. But a product of fewer than PRODUCT_POSITIONS
# positions costs more than columns that are read from the next cache level.
BOX_BYTES = 2**21
PRODUCT_POSITIONS = 256

# If the number of boxes is a multiple of four, two or four threads finish at the same time. To wake
# a thread for a box below these sizes takes longer than to process the box.
BOXES_MULTIPLE = 4
MIN_BOX_BYTES = 2**16
MIN_BOX_POSITIONS = 32

# Small images are converted several at a time: the boxes of one would not occupy all threads.
IMAGES_BYTES = 4 * 2**20


class OutputSize(Protocol):
    """The size of the output of a geometry."""

    @property
    def out(self) -> PerAxis: ...

    @property
    def out_pixels(self) -> int: ...


@dataclass(frozen=True)
class Costs:
    """Bytes of scratch memory.

    Attributes:
        image: bytes of a channels-last image, and of its gradient in the backward.
        fixed: bytes that a call uses from start to end.
        panel_position: bytes per output position of a panel.
        box_position: bytes per output position of a box that a thread processes.
    """

    image: int
    fixed: int
    panel_position: int
    box_position: int


@dataclass(frozen=True)
class Rectangle:
    """Positions of one image that form a rectangle: one slice per axis.

    Attributes:
        image, slices: indices of the rectangle in an array (N, channels, *out).
        in_box: the same positions as a slice of the box's positions.
    """

    image: int
    slices: tuple[slice, ...]
    in_box: slice

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

    def rectangles(self, g: OutputSize) -> Iterator[Rectangle]:
        """Cut the box into rectangles, each in one image."""
        first = self.first
        while first < self.last:
            n, position = divmod(first, g.out_pixels)
            remaining = min(self.last - first, g.out_pixels - position)
            slices, count = _rectangle(g.out, position, remaining)
            in_box = slice(first - self.first, first - self.first + count)
            yield Rectangle(self.images.start + n, slices, in_box)
            first += count


def _rectangle(out: PerAxis, position: int, remaining: int) -> tuple[tuple[slice, ...], int]:
    """The largest rectangle of at most ``remaining`` positions from ``position`` on, and its size.

    The rectangle is a range along one axis, a single index along the axes before it, and the whole
    axis along those after it.
    """
    inner = prod(out)  # number of positions that one index of this axis covers
    slices: list[slice] = []
    for axis, size in enumerate(out):
        inner //= size
        index, position = divmod(position, inner)
        if position == 0 and remaining >= inner:
            run = min(remaining // inner, size - index)
            whole = (slice(0, length) for length in out[axis + 1 :])
            return (*slices, slice(index, index + run), *whole), run * inner
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


def choose_tiling(g: Geometry, columns: int, costs: Costs, limit: int | None) -> Tiling:
    """Choose the sizes of the parts of a call.

    Args:
        g: geometry of the call.
        columns: bytes of the columns of one position.
        costs: scratch memory that the parts need.
        limit: limit of the scratch memory in bytes; None for the default.

    Raises:
        ValueError: the limit is too small for a single position.
    """
    minimum = costs.fixed + costs.panel_position + costs.box_position
    if limit is None:
        limit = max(DEFAULT_LIMIT, minimum)
    if limit < minimum:
        raise ValueError(
            f"workspace_limit must be at least {minimum} bytes for this call (a copy of the "
            f"weight, and one output position), got {limit}"
        )
    available = limit - costs.fixed
    spare = available - costs.panel_position - costs.box_position
    fitting = min(IMAGES_BYTES, available // 4, spare) // max(1, costs.image)
    images = max(1, min(g.batch, fitting))
    available -= (images > 1) * images * costs.image
    panel = g.batch * g.out_pixels
    if costs.panel_position:
        panel_bytes = min(available // 2, available - costs.box_position)
        panel = max(1, panel_bytes // costs.panel_position)
    available -= panel * costs.panel_position
    wanted = _box_positions(images * g.out_pixels, columns)
    positions = max(1, min(wanted, panel, available // 4 // costs.box_position))
    workers = max(1, available // (positions * costs.box_position))
    return Tiling(images=images, positions=positions, panel=panel, workers=workers)


def _box_positions(size: int, columns: int) -> int:
    """Number of positions per box when ``size`` positions are cut into boxes."""
    columns = max(1, columns)
    wanted = max(PRODUCT_POSITIONS, BOX_BYTES // columns)
    quadruples = max(1, round(size / (BOXES_MULTIPLE * wanted)))
    return max(
        MIN_BOX_POSITIONS, MIN_BOX_BYTES // columns, -(-size // (BOXES_MULTIPLE * quadruples))
    )
