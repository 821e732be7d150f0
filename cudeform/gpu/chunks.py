"""How much of a call the GPU engine does at a time, so that its workspace stays within a budget."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry
from cudeform.gpu.device_api.protocol import Device
from cudeform.options import Options
from cudeform.partition import split

# Of the memory that is free, unless the caller sets a limit.
FREE_SHARE = 0.25
LEAST_DEFAULT = 32 * 2**20
MOST_DEFAULT = 2 * 2**30

# Chunks of a deterministic call do not depend on the limit: other products round otherwise.
DETERMINISTIC_BYTES = 128 * 2**20

# Samples of a chunk are numbered by 32-bit integers, and so are the four weights of each.
MOST_SAMPLES = 2**29 - 1


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

    @property
    def purposes(self) -> str:
        """What the least workspace is for."""
        costs = {
            "the weight": self.call,
            "one image": self.image,
            "one row of the output": self.position,
        }
        *others, last = [what for what, nbytes in costs.items() if nbytes]
        return f"{', '.join(others)} and {last}" if others else last


def chunks(g: Geometry, device: Device, options: Options, costs: Costs) -> list[Chunk]:
    """Cut a call into chunks of nearly equal size that fit the budget.

    Raises:
        ValueError: not even one row of one image fits in ``options.workspace_limit``, or it has
            more samples than can be numbered.
    """
    row_samples = g.out_w * g.taps * g.offset_groups
    if row_samples > MOST_SAMPLES:
        raise ValueError(
            f"OW*KH*KW*offset_groups must be at most {MOST_SAMPLES} on a GPU, got {row_samples}"
        )
    row = g.out_w * costs.position
    least = costs.image + row
    if options.deterministic:
        everything = g.batch * (costs.image + g.out_pixels * costs.position)
        least = max(least, min(DETERMINISTIC_BYTES, everything))
    budget = options.workspace_limit or max(_default_budget(device), costs.call + least)
    if budget < costs.call + least:
        why = "deterministic results do not depend on the limit, nor may the chunks"
        what = why if options.deterministic else costs.purposes
        raise ValueError(
            f"workspace_limit must be at least {costs.call + least} bytes for this call ({what}), "
            f"got {budget}"
        )
    room = least if options.deterministic else budget - costs.call
    whole = costs.image + g.out_pixels * costs.position
    samples = g.out_h * row_samples
    if whole <= room and samples <= MOST_SAMPLES:
        images = _fitting(room, whole, MOST_SAMPLES // samples)
        return [Chunk(part, slice(0, g.out_h)) for part in split(g.batch, images)]
    rows = _fitting(room - costs.image, row, MOST_SAMPLES // row_samples)
    return [
        Chunk(slice(image, image + 1), part)
        for image in range(g.batch)
        for part in split(g.out_h, rows)
    ]


def _fitting(room: int, each: int, most: int) -> int:
    """How many of at most ``most`` fit; those that take no bytes all do."""
    return min(room // each, most) if each else most


def _default_budget(device: Device) -> int:
    return max(LEAST_DEFAULT, min(MOST_DEFAULT, int(device.free_bytes() * FREE_SHARE)))
