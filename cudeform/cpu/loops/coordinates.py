"""Where the taps of a block of positions sample: from displacements to corners and fractions.

The fraction comes from the displacement alone and the base of a tap is an integer, so a coordinate
keeps the full precision of its displacement however large the image is. Names and rules are those
of ``kernels/sampling.cuh``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cudeform.cpu.loops.jit import inlined
from cudeform.geometry import Geometry

int32, int64 = np.int32, np.int64

# Positions that a loop works out at once.
BLOCK = 16

# Flags of a sample: the corners in bounds, in the order top left, top right, bottom left, bottom
# right, and what is special about its coordinate.
TOP, BOTTOM, LEFT, RIGHT = 1 | 2, 4 | 8, 1 | 4, 2 | 8
ALL_CORNERS = TOP | BOTTOM
AT_MINUS_ONE = 16  # a coordinate is exactly -1: the sample is 0 although corners are in bounds
NAN_COORD = 32


class Sizes(NamedTuple):
    """What the loops need of a geometry."""

    in_h: int
    in_w: int
    channels: int
    out_w: int
    out_pixels: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_left: int
    dilation_h: int
    dilation_w: int
    offset_groups: int
    group_channels: int  # channels of a group of the columns
    run: int  # channels that share an offset group and a group of the columns

    @classmethod
    def of(cls, g: Geometry, columns_groups: int) -> Sizes:
        """Those of ``g``, with columns in so many groups."""
        group_channels = g.channels // columns_groups
        fields = {name: getattr(g, name) for name in cls._fields if hasattr(g, name)}
        run = int(np.gcd(group_channels, g.channels // g.offset_groups))
        return cls(**fields, group_channels=group_channels, run=run)


class Planes(NamedTuple):
    """Where the planes of an array (images, channels, positions) lie in a flat one.

    Position ``p`` of image ``n`` and channel ``c`` is element
    ``n * image + c * channel + p - origin``.
    """

    image: int
    channel: int
    origin: int


class Samples(NamedTuple):
    """What says where and how strongly the taps sample; arrays are flat and read.

    Attributes:
        offset: two planes a tap and offset group, dy and dx.
        offset_planes: where they lie.
        mask: one plane a tap and offset group; empty where there is none.
        mask_planes: where they lie.
    """

    offset: Any
    offset_planes: Planes
    mask: Any
    mask_planes: Planes


class ColumnsAt(NamedTuple):
    """Which positions columns are of.

    Attributes:
        positions: how many there is room for.
        origin: the first of them, counted through the images.
    """

    positions: int
    origin: int


class Block(NamedTuple):
    """The samples of a block of positions at one tap of one offset group.

    Attributes:
        base_y, base_x: coordinates of the kernel's first tap, displacements left out.
        low_y, low_x: low corner, 0 where no corner is in bounds.
        frac_y, frac_x: from there to the coordinate, 0 where no corner is in bounds.
        state_y, state_x: 1 where a corner can be in bounds; AT_MINUS_ONE, NAN_COORD.
        mask: 1 without a mask, NaN where a coordinate is NaN.
        pixel: element of the images at the low corner and the first channel of the offset group.
        flags: corners in bounds; AT_MINUS_ONE, NAN_COORD.
    """

    base_y: Any
    base_x: Any
    low_y: Any
    low_x: Any
    frac_y: Any
    frac_x: Any
    state_y: Any
    state_x: Any
    mask: Any
    pixel: Any
    flags: Any


@inlined
def new_block(like: Any) -> Any:
    """Room for a block whose coordinates have the dtype of ``like``."""
    return Block(
        np.empty(BLOCK, np.int32),
        np.empty(BLOCK, np.int32),
        np.empty(BLOCK, np.int32),
        np.empty(BLOCK, np.int32),
        np.empty(BLOCK, like.dtype),
        np.empty(BLOCK, like.dtype),
        np.empty(BLOCK, np.int32),
        np.empty(BLOCK, np.int32),
        np.empty(BLOCK, like.dtype),
        np.empty(BLOCK, np.int64),
        np.empty(BLOCK, np.int32),
    )


@inlined
def block_at(sizes: Any, block: Any, position: Any, last: Any) -> Any:
    """Begin a block at a position that is counted through the images.

    Returns:
        The image, and how many positions the block has: neighbours in it before ``last``.
    """
    n = position // sizes.out_pixels
    pixel = position - n * sizes.out_pixels
    count = min(BLOCK, last - position, sizes.out_pixels - pixel)
    oy = pixel // sizes.out_w
    ox = pixel - oy * sizes.out_w
    for k in range(count):
        block.base_y[k] = int32(oy * sizes.stride_h - sizes.pad_top)
        block.base_x[k] = int32(ox * sizes.stride_w - sizes.pad_left)
        ox += 1
        if ox == sizes.out_w:
            ox = 0
            oy += 1
    return n, count


@inlined
def element(planes: Any, n: Any, channel: Any, pixel: Any) -> Any:
    """Where a plane of an image has a position, counted in the image."""
    return n * planes.image + channel * planes.channel + pixel - planes.origin


@inlined
def locate_axis(
    displacement: Any,
    first: Any,
    base: Any,
    step: Any,
    size: Any,
    count: Any,
    low: Any,
    frac: Any,
    state: Any,
) -> Any:
    """Split the coordinates of a block along an axis into integers and fractions.

    Args:
        displacement: flat; those of the block begin at ``first``.
        first: index.
        base: coordinates of the kernel's first tap, displacements left out.
        step: from there to the tap.
        size: of the image.
        count: positions of the block.
        low, frac, state: written, as in :class:`Block`.
    """
    zero = frac.dtype.type(0)
    # The largest number of the dtype below 2**31, and the smallest: an int32 holds both.
    most, least = np.nextafter(frac.dtype.type(2**31), zero), frac.dtype.type(-(2**31))
    for k in range(count):
        d = displacement[first + k]
        floor = np.floor(d)
        limited = floor if floor > least else least
        limited = limited if limited < most else most
        whole = int32(limited)
        here = int32(base[k] + step)
        near = (whole >= int32(-1 - here)) & (whole < int32(size - here))
        low[k] = int32(here + whole) if near else int32(0)
        frac[k] = d - floor if near else zero
        flags = int32(1) if near else int32(0)
        minus_one = (low[k] == int32(-1)) & (frac[k] == zero)
        flags |= int32(AT_MINUS_ONE) if minus_one else int32(0)
        state[k] = flags | (int32(NAN_COORD) if d != d else int32(0))


@inlined
def locate(
    sizes: Any, block: Any, n: Any, position: Any, count: Any, tap: Any, og: Any, samples: Any
) -> None:
    """Work out the samples of a block at a tap of an offset group.

    Args:
        sizes: of the call.
        block: begun by :func:`block_at`; the rest is written.
        n: image.
        position: the first one, counted through the images.
        count: positions of the block.
        tap: row by row.
        og: offset group.
        samples: offset and mask.
    """
    i = tap // sizes.kernel_w
    j = tap - i * sizes.kernel_w
    plane = og * sizes.kernel_h * sizes.kernel_w + tap
    pixel = position - n * sizes.out_pixels
    locate_axis(
        samples.offset,
        element(samples.offset_planes, n, 2 * plane, pixel),
        block.base_y,
        int32(i * sizes.dilation_h),
        int32(sizes.in_h),
        count,
        block.low_y,
        block.frac_y,
        block.state_y,
    )
    locate_axis(
        samples.offset,
        element(samples.offset_planes, n, 2 * plane + 1, pixel),
        block.base_x,
        int32(j * sizes.dilation_w),
        int32(sizes.in_w),
        count,
        block.low_x,
        block.frac_x,
        block.state_x,
    )
    last_y, last_x = int32(sizes.in_h - 1), int32(sizes.in_w - 1)
    channel = og * (sizes.channels // sizes.offset_groups)
    base = n * sizes.in_h * sizes.in_w * sizes.channels + channel
    for k in range(count):
        y, x = block.low_y[k], block.low_x[k]
        both, either = block.state_y[k] & block.state_x[k], block.state_y[k] | block.state_x[k]
        rows = (int32(TOP) if y >= 0 else int32(0)) | (int32(BOTTOM) if y < last_y else int32(0))
        cols = (int32(LEFT) if x >= 0 else int32(0)) | (int32(RIGHT) if x < last_x else int32(0))
        near = (rows & cols) | (either & int32(AT_MINUS_ONE))
        block.flags[k] = near if both & 1 else either & int32(NAN_COORD)
        block.pixel[k] = base + (int64(y) * sizes.in_w + x) * sizes.channels
    mask = element(samples.mask_planes, n, plane, pixel)
    one, nan = block.mask.dtype.type(1), block.mask.dtype.type(np.nan)
    for k in range(count):
        given = samples.mask[mask + k] if len(samples.mask) else one
        block.mask[k] = nan if block.flags[k] & NAN_COORD else given
