"""Tiles of the fused forward: what a block multiplies at a time, and how many of them there are.

Sizes follow from those of the convolution and from the number of multiprocessors; there is no table
of shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from cudeform.geometry import Geometry
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, GemmTile, widest
from cudeform.gpu.device_api.protocol import Device

# Taps whose samples a block plans at a time, at most.
MOST_PLAN_TAPS = 12

# Units of 16 bytes of a row in a stage, and in a chunk of channels: 64 bytes of each corner, where
# the channels allow it.
STAGE_UNITS = 4
MOST_CHUNK_UNITS = 8

# Positions of a tile.
HIGH, LOW = 128, 64

# Output channels of a tile, at most: more of them would leave too few registers.
MOST_N = {2: 256, 4: 128}

# Shared memory of a multiprocessor, by compute capability, and of others; a block takes
# some of it for the system (CUDA C++ Programming Guide, "Compute Capabilities").
SHARED_KIB = {80: 164, 87: 164, 90: 228, 100: 228}
LEAST_SHARED_KIB = 100
SYSTEM_BYTES = 1024

# A rectangle of positions samples a smaller part of the image than a run of them, which is worth
# this many tiles for one.
RECTANGLE_TILES = 1.1

# Stages that a part of the sum has at least, and parts at most: each costs a pass over the output.
LEAST_PART_STAGES = 8
MOST_PARTS = 8


def run_of(g: Geometry) -> int:
    """Neighbouring channels that lie in one group and in one offset group."""
    return gcd(g.channels // g.groups, g.channels // g.offset_groups)


def tile_for(g: Geometry, dtype: str, products: int, multiprocessors: int) -> GemmTile:
    """The tile for a convolution: as wide as an output group, and as high as keeps all busy.

    Of the heights, the one with which the busiest multiprocessor has the fewest positions; the
    larger one if they are equal, since it reads the weight less often.
    """
    group_out = g.out_channels // g.groups
    n = next((n for n in (32, 64, 128) if n >= group_out), MOST_N[ITEMSIZE[dtype]])
    chunk = _chunk_units(run_of(g) // widest(dtype)) * widest(dtype)

    def positions(tile: GemmTile) -> int:
        return -(-Tiling(g, tile, dtype).blocks // multiprocessors) * tile.m

    return min(shapes(n, chunk, products), key=positions)


def shapes(n: int, chunk: int, products: int) -> list[GemmTile]:
    """Tiles of a width, high ones first, each with as many blocks at a time as registers allow.

    A warp of the high tile of 128 would have but 32 columns for what it samples and loads; that of
    the low one has 64.
    """
    if n == 256:
        warps = [(HIGH, 4, 4, 1), (LOW, 2, 4, 2)]
    elif products == 3:
        warps = [(HIGH, 4, 2, 2) if n == 32 else (HIGH, 4, 4, 1)]
        warps += [(LOW, 2, 2, 2) if n == 128 else (LOW, 2, 2, 3)]
    else:
        warps = [(HIGH, 4, 2, 2)] if n < 128 else []
        warps += [(LOW, 2, 2, 3)]
    return [
        GemmTile(m, n, across, down, blocks, chunk, products) for m, across, down, blocks in warps
    ]


def _chunk_units(run_units: int) -> int:
    """Units of a chunk: a stage, or as much as divides the run."""
    if run_units % STAGE_UNITS == 0:
        return STAGE_UNITS
    return next(units for units in range(MOST_CHUNK_UNITS, 0, -1) if run_units % units == 0)


@dataclass(frozen=True)
class Tiling:
    """How a convolution is cut into tiles.

    Attributes:
        g: its sizes.
        tile: of each block.
        dtype: of the arrays.
    """

    g: Geometry
    tile: GemmTile
    dtype: str

    @property
    def chunks(self) -> int:
        """Chunks of a run."""
        return run_of(self.g) // self.tile.channel_block

    @property
    def route_taps(self) -> int:
        """Taps that a tile goes through in turn: of all runs if each is one chunk, else of one."""
        return self.g.taps * (self._runs if self.chunks == 1 else 1)

    @property
    def plan_taps(self) -> int:
        """Taps that are planned at a time: the most with which stages are as full as can be."""
        return min(range(MOST_PLAN_TAPS, 0, -1), key=self._batch_stages)

    @property
    def stages(self) -> int:
        """Stages of a tile."""
        routes = 1 if self.chunks == 1 else self._runs
        return routes * self.chunks * self._batch_stages(self.plan_taps)

    @property
    def _runs(self) -> int:
        return self.g.channels // self.g.groups // run_of(self.g)

    def _batch_stages(self, plan_taps: int) -> int:
        """Stages of a chunk of all batches of so many taps; the last of a batch may not be full."""
        return -(-self.route_taps // plan_taps) * self._chunk_stages(plan_taps)

    def _chunk_stages(self, plan_taps: int) -> int:
        """Stages of a chunk of one batch of so many taps."""
        return -(-plan_taps * self._chunk_units // STAGE_UNITS)

    @property
    def _chunk_units(self) -> int:
        return self.tile.channel_block // widest(self.dtype)

    @property
    def strips(self) -> int:
        """Tiles side by side that make up the output channels of a group."""
        return -(-(self.g.out_channels // self.g.groups) // self.tile.n)

    @property
    def packed_units(self) -> int:
        """Units of the packed weight, each in as many parts as are multiplied."""
        return self.g.groups * self.strips * self.stages * self.tile.n * STAGE_UNITS

    @property
    def packed(self) -> int:
        """Elements of the packed weight."""
        return self.packed_units * self.tile.operand_terms * widest(self.dtype)

    def tile_w(self) -> int:
        """Columns of a rectangle of positions, about a square of them; 0: a run of positions."""
        width = 16 if self.tile.m == HIGH else 8
        run = -(-self.g.batch * self.g.out_pixels // self.tile.m)
        rectangles = self.g.batch * self._rectangles(self.g.out_h, width)
        return width if rectangles <= RECTANGLE_TILES * run else 0

    def tiles(self, images: int, rows: int) -> int:
        """Tiles of some rows of some images."""
        width = self.tile_w()
        if width:
            return images * self._rectangles(rows, width)
        return -(-images * rows * self.g.out_w // self.tile.m)

    def _rectangles(self, rows: int, width: int) -> int:
        return -(-rows // (self.tile.m // width)) * -(-self.g.out_w // width)

    @property
    def blocks(self) -> int:
        """Tiles of the whole convolution."""
        return self.tiles(self.g.batch, self.g.out_h) * self.g.groups * self.strips

    def part_stages(self, device: Device) -> int:
        """Stages of a part: all, or fewer so that a small convolution fills the device."""
        idle = device.multiprocessors * self._resident(device.compute_capability) // self.blocks
        parts = max(1, min(idle, self.stages // LEAST_PART_STAGES, MOST_PARTS))
        return -(-self.stages // parts)

    def _resident(self, capability: int) -> int:
        """Blocks that a multiprocessor holds at a time, as registers and shared memory allow."""
        shared = 1024 * SHARED_KIB.get(capability, LEAST_SHARED_KIB)
        return min(self.tile.blocks, shared // (self.shared_bytes + SYSTEM_BYTES))

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: two buffers of each factor, the plans, the positions."""
        buffers = 2 * self.tile.operand_terms * (self.tile.m + self.tile.n) * STAGE_UNITS * 16
        aim, held, spot = 16, 1, 12
        planned = -(-self._chunk_stages(self.plan_taps) * STAGE_UNITS // self._chunk_units)
        return buffers + self.tile.m * (planned * (aim + held) + spot)
