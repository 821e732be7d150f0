"""How much the CPU engine does at a time, so that scratch memory stays within its limit."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry
from cudeform.options import Options, available_threads

DEFAULT_LIMIT = 64 * 2**20

# The columns of a tile should stay in a core's cache and still make a sizeable product.
TILE_BYTES = 2**21
FEWEST_POSITIONS = 128
MOST_POSITIONS = 2**15

# Small images are put on the table together: one after the other they would not fill the threads.
TABLE_BYTES = 4 * 2**20

# Most that planning one sample holds at a time: fractions, rows and flags, four weights and four
# rows before and after the corners outside the image are dropped.
SAMPLE_BYTES = 160


@dataclass(frozen=True)
class Plan:
    """How a call is cut.

    Attributes:
        images: how many go on one channels-last table.
        positions: most output positions in a tile.
        panel: most output positions whose columns are kept for the gradient of the weight.
        threads: how many tiles are worked on at a time.
    """

    images: int
    positions: int
    panel: int
    threads: int


@dataclass(frozen=True)
class Costs:
    """Bytes of scratch memory.

    Attributes:
        image: a channels-last image, with its gradient in the backward.
        fixed: what a call holds all the time.
        kept: what an output position holds until its panel is done.
        position: what an output position holds while its tile is worked on.
    """

    image: int
    fixed: int
    kept: int
    position: int


def forward_plan(g: Geometry, itemsize: int, options: Options) -> Plan:
    """Plan of a forward call whose arithmetic has elements of ``itemsize`` bytes."""
    columns, samples = _columns_and_samples(g, itemsize)
    position = (1 + (g.groups > 1)) * columns + samples + 2 * g.out_channels * itemsize
    image = g.channels * g.in_pixels * itemsize
    return _plan(g, options, columns, Costs(image, _weight(g, itemsize), 0, position))


def backward_plan(g: Geometry, itemsize: int, options: Options) -> Plan:
    """Plan of a backward call whose arithmetic has elements of ``itemsize`` bytes."""
    columns, samples = _columns_and_samples(g, itemsize)
    # The gradient of the columns beside either their share of the image's gradient, at most four
    # pixels for each sample, or one corner's pixels.
    position = 5 * columns + samples + g.out_channels * itemsize
    kept = (1 + (g.groups > 1)) * columns + g.out_channels * itemsize
    image = 2 * g.channels * g.in_pixels * itemsize
    return _plan(g, options, columns, Costs(image, 3 * _weight(g, itemsize), kept, position))


def double_plan(g: Geometry, itemsize: int, options: Options) -> Plan:
    """Plan of a call for forward mode or second order."""
    columns, samples = _columns_and_samples(g, itemsize)
    # Tangent and gradient of the columns, the gradient that meets the weight's tangent, and shares.
    position = 8 * columns + 2 * samples + 2 * g.out_channels * itemsize
    kept = (1 + (g.groups > 1)) * columns + g.out_channels * itemsize
    image = 3 * g.channels * g.in_pixels * itemsize
    return _plan(g, options, columns, Costs(image, 4 * _weight(g, itemsize), kept, position))


def _weight(g: Geometry, itemsize: int) -> int:
    return g.out_channels * g.taps * (g.channels // g.groups) * itemsize


def _columns_and_samples(g: Geometry, itemsize: int) -> tuple[int, int]:
    return g.taps * g.channels * itemsize, g.taps * g.offset_groups * (SAMPLE_BYTES + 8 * itemsize)


def _plan(g: Geometry, options: Options, columns: int, costs: Costs) -> Plan:
    least = costs.fixed + costs.kept + costs.position
    limit = options.workspace_limit or max(DEFAULT_LIMIT, least)
    if limit < least:
        raise ValueError(
            f"workspace_limit must be at least {least} bytes for this call (the weight with its "
            f"taps moved, and one output position), got {limit}"
        )
    room = limit - costs.fixed
    together = min(TABLE_BYTES, room // 4) // max(1, costs.image)
    images = max(1, min(g.batch, together))
    room -= (images > 1) * images * costs.image
    # A third for the panel; of the rest at least two tiles and one that waits for its turn.
    panel = max(1, room // 3 // max(1, costs.kept))
    wanted = max(FEWEST_POSITIONS, min(MOST_POSITIONS, TILE_BYTES // max(1, columns)))
    positions = max(1, min(wanted, panel, room * 2 // 9 // costs.position))
    in_flight = (room - panel * costs.kept) // (positions * costs.position)
    threads = min(options.num_threads or available_threads(), in_flight - 1)
    return Plan(images=images, positions=positions, panel=panel, threads=max(1, threads))
