"""How much the CPU engine does at a time, so that scratch memory stays within its limit."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry
from cudeform.options import Options
from cudeform.tiling import available_threads

DEFAULT_LIMIT = 64 * 2**20

# A tile's columns should stay in a core's second-level cache and still feed a sizeable GEMM.
TILE_BYTES = 5 * 2**18
MOST_POSITIONS = 2048

# Small images are put on the table together: one after the other they would not fill the threads.
TABLE_BYTES = 4 * 2**20

# Upper bounds of what planning one sample holds at a time, beside its four weights and rows.
SAMPLE_BYTES = 96


@dataclass(frozen=True)
class Plan:
    """How a call is cut.

    Attributes:
        images: how many go on one channels-last table.
        positions: most output positions in a tile.
        threads: how many tiles are worked on at a time.
    """

    images: int
    positions: int
    threads: int


def forward_plan(g: Geometry, itemsize: int, options: Options) -> Plan:
    """Plan of a forward call whose arithmetic has elements of ``itemsize`` bytes."""
    weight = g.out_channels * g.taps * (g.channels // g.groups) * itemsize
    columns = g.taps * g.channels * itemsize
    position = columns * (1 + (g.groups > 1)) + _samples(g, itemsize) + g.out_channels * itemsize
    return _plan(g, itemsize, options, tables=1, fixed=weight, tile=0, position=position)


def backward_plan(g: Geometry, itemsize: int, options: Options) -> Plan:
    """Plan of a backward call whose arithmetic has elements of ``itemsize`` bytes."""
    weight = g.out_channels * g.taps * (g.channels // g.groups) * itemsize
    columns = g.taps * g.channels * itemsize
    # Held at a time, in columns: their gradient, and the columns by group or the four corners'
    # share of the gradient of the table.
    position = 6 * columns + _samples(g, itemsize) + g.out_channels * itemsize
    return _plan(g, itemsize, options, tables=2, fixed=2 * weight, tile=weight, position=position)


def _samples(g: Geometry, itemsize: int) -> int:
    entries = 2 * 4 * (itemsize + 4)
    return g.taps * g.offset_groups * (entries + SAMPLE_BYTES)


def _plan(
    g: Geometry,
    itemsize: int,
    options: Options,
    *,
    tables: int,
    fixed: int,
    tile: int,
    position: int,
) -> Plan:
    image = tables * g.channels * g.in_pixels * itemsize
    images = max(1, min(g.batch, TABLE_BYTES // max(1, image)))
    if images > 1:
        fixed += images * image
    least = fixed + tile + position
    limit = options.workspace_limit or max(DEFAULT_LIMIT, least)
    if limit < least:
        raise ValueError(
            f"workspace_limit must be at least {least} bytes for this call (the weight with its "
            f"taps moved, and one output position), got {limit}"
        )
    room = limit - fixed
    wanted = min(MOST_POSITIONS, TILE_BYTES // (g.taps * max(1, g.channels) * itemsize))
    # Three in flight where they fit: two threads and a tile that waits for its turn.
    fitting = max((room // 3 - tile) // position, 1)
    positions = max(1, min(wanted, fitting))
    in_flight = room // (tile + positions * position)
    threads = min(options.num_threads or available_threads(), in_flight - 1)
    return Plan(images=images, positions=positions, threads=max(1, threads))
