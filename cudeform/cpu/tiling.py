"""How a call is cut, so that scratch memory stays within its limit: images, panels, boxes.

Some images at a time are laid out with their channels last. Their output positions, counted through
all of them, are cut into *boxes*, the work of a thread at a time; the backward keeps the columns of
some boxes, a *panel*, for products over many positions. The cut depends on sizes and on the limit,
never on the number of threads: this is what makes every sum independent of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from cudeform.geometry import Geometry
from cudeform.partition import split
from cudeform.settings import PerAxis

DEFAULT_LIMIT = 64 * 2**20

# The columns of a box should stay in a core's cache, but a product of fewer positions is slower
# than columns that come from the next cache.
BOX_BYTES = 2**21
PRODUCT_POSITIONS = 256

# Two and four threads finish together if boxes come in fours; smaller ones than this are not worth
# waking a thread for.
FOURS = 4
LEAST_BYTES = 2**16
LEAST_POSITIONS = 32

# Small images are worked through together: one after the other they would not fill the threads.
IMAGES_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Costs:
    """Bytes of scratch memory.

    Attributes:
        image: a channels-last image, with its gradient in the backward.
        fixed: what a call holds all the time.
        kept: what an output position holds until its panel is done.
        position: what an output position holds while its box is worked on.
    """

    image: int
    fixed: int
    kept: int
    position: int


@dataclass(frozen=True)
class Rectangle:
    """Neighbouring positions of an image that a slice an axis selects.

    Attributes:
        image, slices: where they lie in an array (N, channels, *out).
        part: which positions of the box they are.
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
    """Some output positions.

    Attributes:
        first, last: counted through ``images``.
        images: those that are laid out with it.
        index: which box of these images it is.
    """

    first: int
    last: int
    images: slice
    index: int = 0

    def __len__(self) -> int:
        """How many positions there are."""
        return self.last - self.first

    def rectangles(self, g: Geometry) -> Iterator[Rectangle]:
        """The box as rectangles of single images."""
        at = self.first
        while at < self.last:
            n, position = divmod(at, g.out_pixels)
            left = min(self.last - at, g.out_pixels - position)
            slices, count = _rectangle(g.out, position, left)
            part = slice(at - self.first, at - self.first + count)
            yield Rectangle(self.images.start + n, slices, part)
            at += count


def _rectangle(out: PerAxis, position: int, left: int) -> tuple[tuple[slice, ...], int]:
    """The largest rectangle that begins at a position of an image, and how many positions it has.

    Along one axis it is a range; it is one index along those before and all along those after.
    """
    behind = prod(out)  # positions that differ in the axes after this one
    slices: list[slice] = []
    for axis, size in enumerate(out):
        behind //= size
        index, position = divmod(position, behind)
        if position == 0 and left >= behind:
            several = min(left // behind, size - index)
            whole = (slice(0, each) for each in out[axis + 1 :])
            return (*slices, slice(index, index + several), *whole), several * behind
        slices.append(slice(index, index + 1))
    raise AssertionError("a position has no position behind it along the last axis")


@dataclass(frozen=True)
class Tiling:
    """How a call is cut.

    Attributes:
        images: how many are laid out at a time.
        positions: most output positions in a box.
        panel: most output positions whose columns are kept.
        workers: most boxes that are worked on at a time.
    """

    images: int
    positions: int
    panel: int
    workers: int

    def boxes(self, g: Geometry, images: slice) -> list[Box]:
        """Cover the output of some images with boxes."""
        size = (images.stop - images.start) * g.out_pixels
        parts = enumerate(split(size, self.positions))
        return [Box(part.start, part.stop, images, index) for index, part in parts]

    def panels(self, boxes: list[Box]) -> Iterator[list[Box]]:
        """Join boxes, in order, into runs of at most ``panel`` positions (at least one box)."""
        run: list[Box] = []
        for box in boxes:
            if run and box.last - run[0].first > self.panel:
                yield run
                run = []
            run.append(box)
        if run:
            yield run


def tiling(g: Geometry, columns: int, costs: Costs, limit: int | None) -> Tiling:
    """Cut a call.

    Args:
        g: sizes.
        columns: bytes of the columns of a position.
        costs: of scratch memory.
        limit: of scratch memory; None for the default.

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
    """Positions of each box that ``size`` positions are cut into."""
    columns = max(1, columns)
    wanted = max(PRODUCT_POSITIONS, BOX_BYTES // columns)
    fours = max(1, round(size / (FOURS * wanted)))
    return max(LEAST_POSITIONS, LEAST_BYTES // columns, -(-size // (FOURS * fours)))
