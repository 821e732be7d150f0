"""Where the taps of a tile sample: from offsets to corners, fractions and rows of the table.

The fractions come from the offset alone and the base of a tap is an integer, so a coordinate keeps
the full precision of its offset however large the image is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cudeform.cpu.samples import Samples
from cudeform.cpu.sparse import Array, Bools
from cudeform.cpu.tiles import Tile
from cudeform.geometry import Geometry

LARGEST_INT32 = 2**31 - 1


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
    pairs = offset.reshape(g.batch, g.offset_groups, g.taps, 2, g.out_h, g.out_w)
    y0, ly = _split(in_sample_order(pairs[:, :, :, 0], tile, dtype), _base_y(g, tile))
    x0, lx = _split(in_sample_order(pairs[:, :, :, 1], tile, dtype), _base_x(g, tile))
    near = (y0 >= -1) & (y0 < g.in_h) & (x0 >= -1) & (x0 < g.in_w)
    lost = np.empty(0, np.intp)
    if not near.all():
        lost = np.flatnonzero(np.isnan(y0) | np.isnan(x0))
        for part in (y0, ly, x0, lx):
            part[~near] = 0
    minus_one = ((y0 == -1) & (ly == 0)) | ((x0 == -1) & (lx == 0))
    modulation = None
    if mask is not None:
        planes = mask.reshape(g.batch, g.offset_groups, g.taps, g.out_h, g.out_w)
        modulation = in_sample_order(planes, tile, dtype).ravel()
    first = _first_rows(g, tile, first_image, y0, x0)
    return Samples(
        ly=ly.ravel(),
        lx=lx.ravel(),
        mask=modulation,
        first=first,
        steps=np.array([0, 1, g.in_w, g.in_w + 1], first.dtype) * g.offset_groups,
        held=_held(g, y0, x0, near),
        edge=np.flatnonzero(minus_one & near),
        lost=lost,
    )


def in_sample_order(planes: Array, tile: Tile, dtype: np.dtype[Any]) -> Array:
    """Cut a tile out of (N, OG, taps, OH, OW): a fresh (images, rows, cols, taps, OG)."""
    part = planes[tile.images, :, :, tile.rows, tile.cols]
    return part.transpose(0, 3, 4, 2, 1).astype(dtype, order="C")


def _split(displacement: Array, base: Array) -> tuple[Array, Array]:
    """Integer part and fraction of ``base + displacement``; the integer part is a float here."""
    whole = np.floor(displacement)
    np.subtract(displacement, whole, out=displacement)
    # float32 has all whole numbers up to here.
    if base.size and np.abs(base).max() < 2**23:
        base = base.astype(whole.dtype)
    return whole + base, displacement


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
    rows = y0.astype(index)
    rows *= g.in_w
    rows += x0.astype(index)
    rows += (images * g.in_pixels).astype(index)[:, None, None, None, None]
    if g.offset_groups > 1:
        rows *= g.offset_groups
        rows += np.arange(g.offset_groups, dtype=index)
    return rows.ravel()


def index_dtype(g: Geometry, tile: Tile, first_image: int) -> np.dtype[Any]:
    """int32 where it holds every row of the table and every count that a tile forms, else int64."""
    last_row = (tile.images.stop - first_image) * g.in_pixels * g.offset_groups - 1
    # The bottom right corner of a sample in the last pixel lies one row and one column further.
    last_corner = last_row + (g.in_w + 1) * g.offset_groups
    entries = 4 * tile.positions * g.taps * g.offset_groups
    return np.dtype(np.int32 if max(last_corner, entries) <= LARGEST_INT32 else np.int64)


def _held(g: Geometry, y0: Array, x0: Array, near: Bools) -> Bools:
    """Which of the four corners lie in the image, (samples, 4)."""
    held = np.empty((*near.shape, 2, 2), np.bool_)
    top, bottom = near & (y0 >= 0), near & (y0 < g.in_h - 1)
    left, right = x0 >= 0, x0 < g.in_w - 1
    for down, row in enumerate((top, bottom)):
        for along, col in enumerate((left, right)):
            np.logical_and(row, col, out=held[..., down, along])
    return held.reshape(-1, 4)
