"""Cutting a call into chunks, so that its workspace stays within a budget."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api.protocol import Hardware
from cudeform.options import Options
from cudeform.partition import split

# The default budget: a share of the free memory, within these bounds.
FREE_SHARE = 0.25
MIN_DEFAULT = 32 * 2**20
MAX_DEFAULT = 2 * 2**30

# Size of the chunks of a deterministic call. They must not depend on the limit or on free memory:
# sums over other chunks round differently.
DETERMINISTIC_BYTES = 128 * 2**20

# The samples of a chunk, and the four weights of each, are numbered by 32-bit integers.
MAX_SAMPLES = 2**29 - 1


@dataclass(frozen=True)
class Chunk:
    """What one pass of a call works through: whole images, or output rows of one image."""

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
    row_samples = g.out_cols * g.taps * g.offset_groups
    if row_samples > MAX_SAMPLES:
        raise ValueError(
            f"OW*KH*KW*offset_groups must be at most {MAX_SAMPLES} on a GPU, got {row_samples}"
        )
    row_bytes = g.out_cols * costs.position
    image_bytes = costs.image + g.out_pixels * costs.position
    required = costs.image + row_bytes
    if options.deterministic:
        required = max(required, min(DETERMINISTIC_BYTES, g.batch * image_bytes))
    budget = options.workspace_limit or max(_default_budget(hardware), costs.call + required)
    if budget < costs.call + required:
        why = "deterministic results do not depend on the limit, nor may the chunks"
        what = why if options.deterministic else costs.purposes
        raise ValueError(
            f"workspace_limit must be at least {costs.call + required} bytes for this call "
            f"({what}), got {budget}"
        )
    available = required if options.deterministic else budget - costs.call
    image_samples = g.out_rows * row_samples
    if image_bytes <= available and image_samples <= MAX_SAMPLES:
        images = _most(available, image_bytes, MAX_SAMPLES // image_samples)
        return [Chunk(part, slice(0, g.out_rows)) for part in split(g.batch, images)]
    rows = _most(available - costs.image, row_bytes, MAX_SAMPLES // row_samples)
    return [
        Chunk(slice(image, image + 1), part)
        for image in range(g.batch)
        for part in split(g.out_rows, rows)
    ]


def _most(available: int, nbytes: int, limit: int) -> int:
    """How many parts of some bytes fit, ``limit`` at most."""
    return min(available // nbytes, limit) if nbytes else limit


def _default_budget(hardware: Hardware) -> int:
    return max(MIN_DEFAULT, min(MAX_DEFAULT, int(hardware.free_bytes() * FREE_SHARE)))
