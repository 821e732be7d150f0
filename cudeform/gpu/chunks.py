"""Cutting a call into chunks, so that its workspace stays within a budget."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api.protocol import Hardware
from cudeform.options import Options
from cudeform.partition import split
from cudeform.shape_rules import ShapeRules

# The default budget is a fraction of the free memory, within these bounds.
FREE_SHARE = 0.25
MIN_DEFAULT = 32 * 2**20
MAX_DEFAULT = 2 * 2**30

# Size of the chunks of a deterministic call. It must not depend on the limit or on the free memory,
# because sums over other chunks are rounded differently.
DETERMINISTIC_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Chunk:
    """The images, or output rows of one image, that one pass of a call processes.

    The positions of a row differ only in the last axis; the other axes of an image are merged to
    rows. In one dimension, every position is a row, so that a long signal can be cut.
    """

    images: slice
    rows: slice

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.images.stop - self.images.start)

    @property
    def height(self) -> int:
        """Number of output rows of each image."""
        return int(self.rows.stop - self.rows.start)


def cut_into_chunks(g: Geometry, hardware: Hardware, options: Options, costs: Costs) -> list[Chunk]:
    """Cut a call into chunks of nearly equal size whose workspace fits the budget.

    Raises:
        ValueError: not even one output row of one image fits ``options.workspace_limit``, or it
            has more samples than 32-bit integers can number.
    """
    row_samples, most_samples = row_positions(g) * g.taps * g.offset_groups, max_samples(g.axes)
    if row_samples > most_samples:
        taps = ShapeRules.of(g.axes).kernel.replace(", ", "*")
        raise ValueError(
            f"{'OW*' if g.axes > 1 else ''}{taps}*offset_groups must be at most {most_samples} on "
            f"a GPU, got {row_samples}"
        )
    row_bytes = row_positions(g) * costs.position
    image_bytes = costs.image + g.out_pixels * costs.position
    required = costs.image + row_bytes
    if options.deterministic:
        required = max(required, min(DETERMINISTIC_BYTES, g.batch * image_bytes))
    budget = budget_of(hardware, options, costs.call + required)
    if budget < costs.call + required:
        why = "deterministic results do not depend on the limit, nor may the chunks"
        what = why if options.deterministic else costs.purposes(g)
        raise ValueError(
            f"workspace_limit must be at least {costs.call + required} bytes for this call "
            f"({what}), got {budget}"
        )
    available = required if options.deterministic else budget - costs.call
    image_samples = image_rows(g) * row_samples
    if image_bytes <= available and image_samples <= most_samples:
        images = most_that_fit(available, image_bytes, most_samples // image_samples)
        return [Chunk(part, slice(0, image_rows(g))) for part in split(g.batch, images)]
    rows = most_that_fit(available - costs.image, row_bytes, most_samples // row_samples)
    return [
        Chunk(slice(image, image + 1), part)
        for image in range(g.batch)
        for part in split(image_rows(g), rows)
    ]


def row_positions(g: Geometry) -> int:
    """Output positions of a row of a chunk."""
    return g.out_cols if g.axes > 1 else 1


def image_rows(g: Geometry) -> int:
    """Output rows of an image."""
    return g.out_pixels // row_positions(g)


def max_samples(axes: int) -> int:
    """Maximum number of samples of a chunk, whose corner weights have 32-bit indices."""
    return (2**31 - 1) >> axes


def budget_of(hardware: Hardware, options: Options, required: int) -> int:
    """Bytes of workspace that a call may take; by default enough for what it requires."""
    return options.workspace_limit or max(_default_budget(hardware), required)


def most_that_fit(available: int, nbytes: int, limit: int) -> int:
    """Number of parts of the given size that fit, at most ``limit``."""
    return min(available // nbytes, limit) if nbytes else limit


def _default_budget(hardware: Hardware) -> int:
    return max(MIN_DEFAULT, min(MAX_DEFAULT, int(hardware.free_bytes() * FREE_SHARE)))
