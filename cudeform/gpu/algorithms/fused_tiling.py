"""GEMM tiles of the fused forward: the size of a tile, and the number of tiles, stages and blocks.

Everything is computed from the sizes of the convolution and the number of multiprocessors; there is
no table of shapes. ``kernels/fused/schedule.cuh`` explains the order of the K axis, which consists
of channels and taps. A *vec* is 16 bytes of channels, the unit in which the kernel loads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd

from cudeform.geometry import Geometry
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, GemmTile, widest
from cudeform.gpu.device_api.protocol import Hardware

# Maximum number of taps whose samples a block records at a time.
MAX_TAPS_PER_BATCH = 12

# Vecs in each row of a tile per stage: 64 bytes.
STAGE_VECS = 4

# Maximum number of vecs in a channel block.
MAX_CHANNEL_BLOCK_VECS = 8

# Positions of a tile.
HIGH, LOW = 128, 64

# Maximum number of output channels of a tile, by itemsize; more would need too many registers.
MAX_N = {2: 256, 4: 128}

# Shared memory of a multiprocessor by compute capability, and the minimum of all others. The system
# reserves a part of it per block (CUDA C++ Programming Guide, "Compute Capabilities").
SHARED_KIB = {80: 164, 87: 164, 90: 228, 100: 228}
MIN_SHARED_KIB = 100
SYSTEM_BYTES = 1024

# Bytes of shared memory per position and tap: a FusedRecord and the set of contributing corners.
RECORD_BYTES, CORNERS_BYTES = 16, 1
POSITION_BYTES = 12  # bytes of an OutputPosition

# A rectangle of positions samples a smaller part of the image than a run of positions. Rectangles
# are used if they increase the number of tiles by at most this factor.
RECTANGLE_TILES = 1.1

# Minimum number of stages of a split, and maximum number of splits: each split costs a pass over
#   the
# output.
MIN_SPLIT_STAGES = 8
MAX_SPLITS = 8


def run_of(g: Geometry) -> int:
    """Channels of a run: contiguous channels of one group and one offset group."""
    return gcd(g.channels // g.groups, g.channels // g.offset_groups)


@lru_cache
def tiling_for(g: Geometry, dtype: str, products: int, multiprocessors: int) -> Tiling:
    """Choose the tiling for a convolution: the width fits an output group, the height the device.

    The height is the one with which the busiest multiprocessor has the fewest positions. Of equal
    ones it is the larger, which reads the weight less often.
    """
    group_out = g.out_channels // g.groups
    n = next((n for n in (32, 64, 128) if n >= group_out), MAX_N[ITEMSIZE[dtype]])
    channel_block = _channel_block_vecs(run_of(g) // widest(dtype)) * widest(dtype)
    tilings = [Tiling(g, tile, dtype) for tile in tile_shapes(n, channel_block, products)]
    return min(tilings, key=lambda tiling: -(-tiling.blocks // multiprocessors) * tiling.tile.m)


def tile_shapes(n: int, channel_block: int, products: int) -> list[GemmTile]:
    """Tiles of a given width, high ones first, each with as many resident blocks as registers
    allow.

    For a width of 128 there is no high tile: it would leave each thread 32 registers for the
        corners
    and weights being loaded, while the low tile leaves 64.
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
        GemmTile(m, n, warps_m, warps_n, blocks, channel_block, products)
        for m, warps_m, warps_n, blocks in warps
    ]


def _channel_block_vecs(run_vecs: int) -> int:
    """Vecs of a channel block: a whole stage, or the largest number that divides the run."""
    if run_vecs % STAGE_VECS == 0:
        return STAGE_VECS
    return next(vecs for vecs in range(MAX_CHANNEL_BLOCK_VECS, 0, -1) if run_vecs % vecs == 0)


@dataclass(frozen=True)
class Tiling:
    """How a convolution is cut into tiles.

    Attributes:
        g: sizes of the convolution.
        tile: the tile that a block multiplies.
        dtype: dtype of the arrays.
    """

    g: Geometry
    tile: GemmTile
    dtype: str

    # ---- the K axis: stages ----------------------------------------------------------------------

    @cached_property
    def channel_blocks(self) -> int:
        """Number of channel blocks of a run."""
        return run_of(self.g) // self.tile.channel_block

    @cached_property
    def k_taps(self) -> int:
        """Number of taps of a run, or of all runs if runs are concatenated."""
        return self.g.taps * (self._runs if self.channel_blocks == 1 else 1)

    @cached_property
    def taps_per_batch(self) -> int:
        """Number of taps recorded at a time: the largest among those that fill the stages best."""
        return min(range(MAX_TAPS_PER_BATCH, 0, -1), key=self._channel_block_stages)

    @cached_property
    def stages(self) -> int:
        """Number of stages of a tile."""
        runs = 1 if self.channel_blocks == 1 else self._runs
        return runs * self.channel_blocks * self._channel_block_stages(self.taps_per_batch)

    @cached_property
    def _runs(self) -> int:
        """Number of runs of a group."""
        return self.g.channels // self.g.groups // run_of(self.g)

    def _channel_block_stages(self, taps_per_batch: int) -> int:
        """Number of stages of a channel block, over all batches; each batch may end in a part."""
        return -(-self.k_taps // taps_per_batch) * self._batch_stages(taps_per_batch)

    def _batch_stages(self, taps_per_batch: int) -> int:
        """Number of stages of a channel block and a batch of taps."""
        return -(-taps_per_batch * self._channel_block_vecs // STAGE_VECS)

    @cached_property
    def _channel_block_vecs(self) -> int:
        return self.tile.channel_block // widest(self.dtype)

    # ---- the N axis: output channels, and the weight ---------------------------------------------

    @cached_property
    def strips(self) -> int:
        """Number of adjacent tiles that cover the output channels of a group."""
        return -(-(self.g.out_channels // self.g.groups) // self.tile.n)

    @cached_property
    def packed_vecs(self) -> int:
        """Number of vecs of the packed weight, with all terms of an operand."""
        return self.g.groups * self.strips * self.stages * self.tile.n * STAGE_VECS

    @cached_property
    def packed_elements(self) -> int:
        """Number of elements of the packed weight."""
        return self.packed_vecs * self.tile.operand_terms * widest(self.dtype)

    # ---- the M axis: positions -------------------------------------------------------------------

    @cached_property
    def tile_w(self) -> int:
        """Width of a tile that is a rectangle, nearly a square; 0 if it is a run of positions."""
        width = 16 if self.tile.m == HIGH else 8
        runs = -(-self.g.batch * self.g.out_pixels // self.tile.m)
        rectangles = self.g.batch * self._rectangles(self.g.out_rows, width)
        return width if rectangles <= RECTANGLE_TILES * runs else 0

    def tiles(self, images: int, rows: int) -> int:
        """Number of tiles that cover the given rows of the given images."""
        if self.tile_w:
            return images * self._rectangles(rows, self.tile_w)
        return -(-images * rows * self.g.out_cols // self.tile.m)

    def _rectangles(self, rows: int, width: int) -> int:
        return -(-rows // (self.tile.m // width)) * -(-self.g.out_cols // width)

    # ---- blocks ----------------------------------------------------------------------------------

    @cached_property
    def blocks(self) -> int:
        """Number of tiles of the whole convolution."""
        return self.tiles(self.g.batch, self.g.out_rows) * self.g.groups * self.strips

    def split_stages(self, hardware: Hardware) -> int:
        """Number of stages of a split: all, or fewer if that is needed to fill the device."""
        resident = hardware.multiprocessors * self._resident_blocks(hardware.compute_capability)
        splits = max(1, min(resident // self.blocks, self.stages // MIN_SPLIT_STAGES, MAX_SPLITS))
        return -(-self.stages // splits)

    def _resident_blocks(self, capability: int) -> int:
        """Number of resident blocks per multiprocessor, by registers and shared memory."""
        shared = 1024 * SHARED_KIB.get(capability, MIN_SHARED_KIB)
        return min(self.tile.blocks, shared // (self.shared_bytes + SYSTEM_BYTES))

    @cached_property
    def shared_bytes(self) -> int:
        """Shared memory of a block: two buffers of each operand, sample records, positions."""
        rows = self.tile.operand_terms * (self.tile.m + self.tile.n)
        recorded_vecs = self._batch_stages(self.taps_per_batch) * STAGE_VECS
        recorded_taps = -(-recorded_vecs // self._channel_block_vecs)
        samples = recorded_taps * (RECORD_BYTES + CORNERS_BYTES) + POSITION_BYTES
        return 2 * rows * STAGE_VECS * 16 + self.tile.m * samples
