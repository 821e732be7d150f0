"""Owned tiles: gradient of the input summed in shared memory, a window of the image for a block.

Neighbouring samples touch the same pixels. For 3x3 taps and displacements of 2 pixels, each pixel
gets 36 additions for each position and channel, but after a tile of 8x8 positions was summed up in
a window only about 4.

The size of a window is a matter of arithmetic. Its side is what the taps of the tile span,
``7*stride + (kernel - 1)*dilation + 2``, and a reach on both sides: 11 + 2*3 pixels for 3x3 taps.
For 32 channels in float32 that makes 36 KiB, and with 6 KiB of plans a multiprocessor of 228 KiB
holds five blocks. One thread owns a channel, so these five warps are all that walk at a time; each
step of a sample costs them about as much time as its eight accesses cost shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry
from cudeform.gpu.call import Call, pointer_of
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.protocol import DeviceArray, Memory

# Positions of a tile, along each side.
SIDE = 8

# Threads of a block: those that each own a channel, and those that plan samples meanwhile.
WALKERS, PLANNERS = 32, 96

# Gradients that a walker has on their way; a plan has a multiple of it.
AHEAD = 8

# Every block may have as much shared memory, on every processor.
MOST_SHARED_BYTES = 48 * 1024

# Pixels beyond what the taps span. More would save no additions for displacements of 2 pixels: what
# falls within would be about as many pixels more to add at the end.
MOST_REACH = 3

# With fewer walkers than these, a block would do too little at a time.
LEAST_WALKERS = 8


@dataclass(frozen=True)
class Window:
    """What a block sums up.

    Attributes:
        lanes: channels.
        reach: pixels beyond the span of the taps, on each side.
        height: pixels.
        width: pixels.
        pairs: (position, tap) that are planned at a time.
        groups: offset groups in which the channels lie, at most.
        acc_itemsize: bytes of a sum.
    """

    lanes: int
    reach: int
    height: int
    width: int
    pairs: int
    groups: int
    acc_itemsize: int

    @classmethod
    def of(cls, g: Geometry, lanes: int, reach: int, acc_itemsize: int) -> Window:
        """The window of some channels and a reach, or as much of it as the image has."""
        tall = (SIDE - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 2 + 2 * reach
        wide = (SIDE - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 2 + 2 * reach
        # A run that begins at the last channel of a group reaches into the most of them.
        others = -(-(lanes - 1) // (g.channels // g.offset_groups))
        groups = min(g.offset_groups, 1 + others)
        return cls(
            lanes=lanes,
            reach=reach,
            height=min(tall, g.in_h),
            width=min(wide, g.in_w),
            pairs=max(1, PLANNERS // groups // AHEAD) * AHEAD,
            groups=groups,
            acc_itemsize=acc_itemsize,
        )

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: two buffers of plans, and the sums."""
        drop = 4 * self.acc_itemsize + 16
        sums = self.height * self.width * self.lanes * self.acc_itemsize
        return 2 * self.pairs * self.groups * drop + sums


def window_of(g: Geometry, acc_itemsize: int, vector: int) -> Window | None:
    """The window of a block: as many channels as fit, then as much reach; None if too few fit.

    Args:
        g: sizes.
        acc_itemsize: bytes of a sum.
        vector: channels that are added to memory at a time; a run has a multiple of them.
    """
    most = WALKERS
    while g.channels and most >= LEAST_WALKERS:
        runs = -(-g.channels // most)
        lanes = -(-g.channels // (runs * vector)) * vector
        for reach in range(MOST_REACH, -1, -1):
            window = Window.of(g, lanes, reach, acc_itemsize)
            if window.shared_bytes <= MOST_SHARED_BYTES:
                return window
        most //= 2
    return None


def add_tiles(
    call: Call,
    chunk: Chunk,
    images: DeviceArray,
    columns: Memory,
    grad_images: Memory,
    window: Window,
) -> None:
    """Add what the gradient of the columns gives to that of the channels-last input.

    Args:
        call: the call.
        chunk: what the columns cover.
        images: the images that they were sampled from.
        columns: their gradient.
        grad_images: dense channels-last images that are added to.
        window: of a block.
    """
    g, operands = call.g, call.operands
    fields = call.chunk_fields(chunk, images) | {
        "lanes": window.lanes,
        "tile_w": SIDE,
        "window_h": window.height,
        "window_w": window.width,
        "reach": window.reach,
        "plan_pairs": window.pairs,
        "plan_groups": window.groups,
    }
    squares = chunk.count * -(-chunk.height // SIDE) * -(-g.out_w // SIDE)
    pointers = (
        operands.offset.pointer,
        pointer_of(operands.mask),
        columns.pointer,
        grad_images.pointer,
    )
    call.launch_blocks(
        "deform_tiles",
        min(squares * -(-g.channels // window.lanes), call.most_blocks),
        WALKERS + PLANNERS,
        pointers,
        fields,
        window.shared_bytes,
    )
