"""How much of a call the GPU engine does at a time, so that its workspace stays within a budget."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry
from cudeform.gpu.protocol import Device
from cudeform.options import Options
from cudeform.partition import split

# Of the memory that is free, unless the caller sets a limit.
FREE_SHARE = 0.25
LEAST_DEFAULT = 32 * 2**20
MOST_DEFAULT = 2 * 2**30

# Chunks of a deterministic call do not depend on the limit: other products round otherwise.
DETERMINISTIC_BYTES = 128 * 2**20

# Samples are numbered by 32-bit integers.
MOST_SAMPLES = 2**31 - 1


@dataclass(frozen=True)
class Chunk:
    """Some whole images, or some rows of the output of one."""

    images: slice
    rows: slice

    @property
    def count(self) -> int:
        """Images."""
        return int(self.images.stop - self.images.start)

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True)
class Costs:
    """Bytes of workspace: for the call, for each image and for each output position of a chunk."""

    call: int
    image: int
    position: int


def chunks(g: Geometry, device: Device, options: Options, costs: Costs) -> list[Chunk]:
    """Cut a call into chunks of nearly equal size that fit the budget.

    Raises:
        ValueError: not even one row of one image fits in ``options.workspace_limit``.
    """
    row = g.out_w * costs.position
    least = costs.call + costs.image + row
    budget = options.workspace_limit or max(_default_budget(device), least)
    if budget < least:
        raise ValueError(
            f"workspace_limit must be at least {least} bytes for this call (the packed weight, one "
            f"channels-last image and the columns of one output row), got {budget}"
        )
    room = budget - costs.call
    if options.deterministic:
        room = _deterministic_room(costs, row, room)
    whole = costs.image + g.out_pixels * costs.position
    samples = g.out_pixels * g.taps * g.offset_groups
    if whole <= room and samples <= MOST_SAMPLES:
        images = min(room // whole, MOST_SAMPLES // samples)
        return [Chunk(part, slice(0, g.out_h)) for part in split(g.batch, images)]
    rows = min((room - costs.image) // row, MOST_SAMPLES // (samples // g.out_h))
    return [
        Chunk(slice(image, image + 1), part)
        for image in range(g.batch)
        for part in split(g.out_h, rows)
    ]


def _default_budget(device: Device) -> int:
    return max(LEAST_DEFAULT, min(MOST_DEFAULT, int(device.free_bytes() * FREE_SHARE)))


def _deterministic_room(costs: Costs, row: int, room: int) -> int:
    fixed = max(DETERMINISTIC_BYTES, costs.image + row)
    if room < fixed:
        raise ValueError(
            f"workspace_limit must be at least {costs.call + fixed} bytes for a deterministic "
            f"call, whose chunks do not depend on the limit, got {costs.call + room}"
        )
    return fixed
