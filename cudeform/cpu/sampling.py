"""Where the taps of a tile sample: from offsets to corners, fractions and rows of the table.

The fractions come from the offset alone and the base of a tap is an integer, so a coordinate keeps
the full precision of its offset however large the image is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cudeform.cpu.samples import Samples
from cudeform.cpu.sparse import Array, Bools
from cudeform.cpu.tiles import Tile
from cudeform.geometry import Geometry

LARGEST_INT32 = 2**31 - 1
NONE = np.zeros((1,) * 5, np.bool_)


def samples(
    g: Geometry,
    tile: Tile,
    first_image: int,
    offset: Array,
    mask: Array | None,
    dtype: np.dtype[Any],
) -> Samples:
    """Work out the samples of a tile.

    Args:
        g: sizes of the call.
        tile: which output positions.
        first_image: the image that the table begins with.
        offset: whole offset, (N, 2*offset_groups*KH*KW, OH, OW), any strides.
        mask: whole mask, (N, offset_groups*KH*KW, OH, OW), any strides, or None.
        dtype: of coordinates and weights.
    """
    shape = (*tile.shape, g.taps, g.offset_groups)
    pairs = offset.reshape(g.batch, g.offset_groups, g.taps, 2, g.out_h, g.out_w)
    y = Axis.of(_distinct(pairs[:, :, :, 0], tile, dtype), _base_y(g, tile), g.in_h)
    x = Axis.of(_distinct(pairs[:, :, :, 1], tile, dtype), _base_x(g, tile), g.in_w)
    edge = lost = np.empty(0, np.intp)
    if y.edge.any() or x.edge.any():
        edge = _numbers((y.edge | x.edge) & y.near & x.near, shape)
    if y.lost.any() or x.lost.any():
        lost = _numbers(y.lost | x.lost, shape)
    modulation = None
    if mask is not None:
        planes = mask.reshape(g.batch, g.offset_groups, g.taps, g.out_h, g.out_w)
        modulation = in_sample_order(planes, tile, dtype).ravel()
    first = _first_rows(g, tile, first_image, y.corner, x.corner)
    return Samples(
        ly=np.broadcast_to(y.fraction, shape).ravel(),
        lx=np.broadcast_to(x.fraction, shape).ravel(),
        mask=modulation,
        first=first,
        steps=np.array([0, 1, g.in_w, g.in_w + 1], first.dtype) * g.offset_groups,
        held=_held(y, x, (g.in_h, g.in_w), shape),
        edge=edge,
        lost=lost,
    )


def in_sample_order(planes: Array, tile: Tile, dtype: np.dtype[Any]) -> Array:
    """Cut a tile out of (N, OG, taps, OH, OW): a fresh (images, rows, cols, taps, OG)."""
    part = planes[tile.images, :, :, tile.rows, tile.cols]
    return part.transpose(0, 3, 4, 2, 1).astype(dtype, order="C")


def _distinct(planes: Array, tile: Tile, dtype: np.dtype[Any]) -> Array:
    """Like :func:`in_sample_order`, but of length 1 where a broadcast array repeats itself."""
    part = planes[tile.images, :, :, tile.rows, tile.cols].transpose(0, 3, 4, 2, 1)
    once = tuple(slice(None) if stride else slice(0, 1) for stride in part.strides)
    cut: Array = part[once].astype(dtype, order="C")
    return cut


@dataclass(frozen=True)
class Axis:
    """Samples along y or x; all arrays broadcast to (images, rows, cols, taps, OG).

    Attributes:
        near: whether a corner can lie in the image.
        corner: coordinate of the corner before the sample, a float; 0 where it is not near.
        fraction: from there to the sample, 0 where it is not near.
        edge: whether the coordinate is -1.
        lost: whether it is NaN.
    """

    near: Bools
    corner: Array
    fraction: Array
    edge: Bools
    lost: Bools

    @classmethod
    def of(cls, displacement: Array, base: Array, size: int) -> Axis:
        """Split ``base + displacement``."""
        whole = np.floor(displacement)
        fraction = np.subtract(displacement, whole, out=displacement)
        # float32 has all whole numbers up to here.
        if base.size and np.abs(base).max() < 2**23:
            base = base.astype(whole.dtype)
        corner = whole + base
        near = (corner >= -1) & (corner < size)
        lost = NONE
        if not near.all():
            lost, far = np.isnan(corner), ~near
            if fraction.shape != far.shape:
                fraction = np.broadcast_to(fraction, far.shape).copy()
            corner[far] = fraction[far] = 0
        edge = corner == -1
        edge &= fraction == 0
        return cls(near, corner, fraction, edge, lost)


def _numbers(flags: Bools, shape: tuple[int, ...]) -> Array:
    return np.flatnonzero(np.broadcast_to(flags, shape))


def _base_y(g: Geometry, tile: Tile) -> Array:
    rows = np.arange(tile.rows.start, tile.rows.stop)[:, None] * g.stride_h - g.pad_top
    taps = np.arange(g.taps) // g.kernel_w * g.dilation_h
    return (rows + taps)[:, None, :, None]


def _base_x(g: Geometry, tile: Tile) -> Array:
    cols = np.arange(tile.cols.start, tile.cols.stop)[:, None] * g.stride_w - g.pad_left
    taps = np.arange(g.taps) % g.kernel_w * g.dilation_w
    return (cols + taps)[:, :, None]


def _first_rows(g: Geometry, tile: Tile, first_image: int, y0: Array, x0: Array) -> Array:
    """Row of the table of each sample's top left corner, which may lie outside the image."""
    images = np.arange(tile.images.start, tile.images.stop) - first_image
    index = index_dtype(g, tile, first_image)
    rows, cols = y0.astype(index), x0.astype(index)
    rows *= g.in_w * g.offset_groups
    if g.offset_groups > 1:
        cols *= g.offset_groups
        cols = cols + np.arange(g.offset_groups, dtype=index)
    before = (images * g.in_pixels * g.offset_groups).astype(index)[:, None, None, None, None]
    rows = rows + before if len(images) > 1 else np.add(rows, before[0], out=rows)
    shape = np.broadcast_shapes(rows.shape, cols.shape)
    first: Array = np.add(rows, cols, out=rows if rows.shape == shape else None)
    return first.ravel()


def index_dtype(g: Geometry, tile: Tile, first_image: int) -> np.dtype[Any]:
    """int32 where it holds every row of the table and every count that a tile forms, else int64."""
    last_row = (tile.images.stop - first_image) * g.in_pixels * g.offset_groups - 1
    # The bottom right corner of a sample in the last pixel lies one row and one column further.
    last_corner = last_row + (g.in_w + 1) * g.offset_groups
    entries = 4 * tile.positions * g.taps * g.offset_groups
    return np.dtype(np.int32 if max(last_corner, entries) <= LARGEST_INT32 else np.int64)


def _held(y: Axis, x: Axis, size: tuple[int, int], shape: tuple[int, ...]) -> Bools:
    """Which of the four corners lie in the image, (samples, 4)."""
    held = np.empty((*shape, 2, 2), np.bool_)
    top, bottom = y.near & (y.corner >= 0), y.near & (y.corner < size[0] - 1)
    left, right = x.near & (x.corner >= 0), x.near & (x.corner < size[1] - 1)
    for down, row in enumerate((top, bottom)):
        for along, col in enumerate((left, right)):
            np.logical_and(row, col, out=held[..., down, along])
    return held.reshape(-1, 4)
