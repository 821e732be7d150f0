"""Sampling as a sparse matrix: where each tap samples, and with which weights.

For a tile of output positions the operator ``S`` has one row for each (position, tap, offset group)
and one column for each (input pixel, offset group); a row holds the bilinear weights of the corners
that lie in the image, at most four. With ``table`` the channels-last image viewed as
``(pixels * offset_groups, C / offset_groups)``:

    columns = S @ table          grad_table = S.T @ grad_columns

The fractions come from the offset alone and the base of a tap is an integer, so a coordinate keeps
the full precision of its offset however large the image is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cudeform.cpu.tiles import Tile
from cudeform.geometry import Geometry

Array = NDArray[Any]
Bools = NDArray[np.bool_]

# Rows of a table, each once.
Rows = slice | NDArray[np.intp]

# With no more channels than this, the fixed cost of each row is most of what vecdot takes.
FEW_CHANNELS = 32


@dataclass(frozen=True)
class Samples:
    """The samples of one tile, one entry for each (position, tap, offset group), in that order.

    Corners come in the order top left, top right, bottom left, bottom right.

    Attributes:
        ly, lx: fractions of the coordinate, 0 where no corner can lie in the image.
        mask: modulation, or None.
        first: row of the table that holds the top left corner.
        steps: from there to the four corners.
        held: (samples, 4), whether a corner lies in the image.
        edge: numbers of the samples that have a held corner but are 0, since a coordinate is -1.
        lost: numbers of the samples with a NaN coordinate.
    """

    ly: Array
    lx: Array
    mask: Array | None
    first: Array
    steps: Array
    held: Bools
    edge: Array
    lost: Array
    _made: dict[str, sp.csr_array] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.ly)

    def columns(self, table: Array) -> Array:
        """Sample the table: ``S @ table``, (samples, C / offset_groups)."""
        # A mask that is not finite must not meet the weights: infinity times a weight of 0 is NaN.
        late = self.mask is not None and not np.isfinite(self.mask).all()
        operator = self.operator(len(table))
        if late:
            operator = self.sparse(self.bilinear(), len(table), self.inner())
        columns: Array = operator @ table
        if late and self.mask is not None:
            columns *= self.mask[:, None]
        columns[self.lost] = np.nan
        return columns

    def operator(self, table_rows: int) -> sp.csr_array:
        """``S``, mask included; made once, for it serves the columns and the scatter."""
        if "operator" not in self._made:
            weights = self.bilinear(self.mask)
            self._made["operator"] = self.sparse(weights, table_rows, self.inner())
        return self._made["operator"]

    def scatter(self, grad_columns: Array, table_rows: int) -> tuple[Rows, Array]:
        """``S.T @ grad_columns``, without its empty rows.

        Returns:
            Rows of the table, each once, and what they gain.
        """
        operator = self.operator(table_rows)
        finite = self.mask is None or np.isfinite(self.mask).all()
        if not (finite and np.isfinite(grad_columns.sum())):
            # A corner of weight 0 gains nothing, not even infinity times 0.
            bilinear = self.bilinear()
            weights = np.where(bilinear == 0, 0, self.bilinear(self.mask))
            operator = self.sparse(weights, table_rows, self.inner())
            operator.eliminate_zeros()
        return scatter(operator, grad_columns)

    def corner_dots(self, table: Array, grad_columns: Array) -> Array:
        """Dot product over channels of ``grad_columns`` with each corner, (4, samples).

        The gradients of offset and mask follow from these four numbers. Corners outside the image
        count as 0.
        """
        dots = np.empty((4, len(self)), self.ly.dtype)
        pixels, ones = np.empty_like(grad_columns), np.ones(grad_columns.shape[1], dots.dtype)
        for dot, step, held in zip(dots, self.steps, self.held.T, strict=True):
            np.take(table, self.first + step, axis=0, out=pixels, mode="clip")
            if len(ones) > FEW_CHANNELS:
                np.vecdot(pixels, grad_columns, out=dot)
            else:
                np.matmul(np.multiply(pixels, grad_columns, out=pixels), ones, out=dot)
            dot[~held] = 0
        return dots

    def bilinear(self, mask: Array | None = None) -> Array:
        """Bilinear weights of the corners, times the mask if one is given, (samples, 4)."""
        weights = np.empty((len(self), 4), self.ly.dtype)
        below, above, right, left = self.ly, 1 - self.ly, self.lx, 1 - self.lx
        if mask is not None:
            below, above = below * mask, above * mask
        np.multiply(above, left, out=weights[:, 0])
        np.multiply(above, right, out=weights[:, 1])
        np.multiply(below, left, out=weights[:, 2])
        np.multiply(below, right, out=weights[:, 3])
        return weights

    def slopes(self, values: Array) -> tuple[Array, Array]:
        """Derivatives in y and x between four ``values`` at the corners, (4, samples)."""
        top_left, top_right, bottom_left, bottom_right = values
        slope_y = self.lx * (bottom_right - top_right) + (1 - self.lx) * (bottom_left - top_left)
        slope_x = self.ly * (bottom_right - bottom_left) + (1 - self.ly) * (top_right - top_left)
        return slope_y, slope_x

    def grad_mask(self, dots: Array) -> Array:
        """Gradient of the mask from the corner dots."""
        left, right = 1 - self.lx, self.lx
        top, bottom = left * dots[0] + right * dots[1], left * dots[2] + right * dots[3]
        grad: Array = (1 - self.ly) * top + self.ly * bottom
        grad[self.edge] = 0
        grad[self.lost] = np.nan
        return grad

    def grad_offset(self, dots: Array, boundary_grad: str) -> tuple[Array, Array]:
        """Gradients of dy and dx from the corner dots."""
        grad_y, grad_x = self.slopes(dots)
        for grad in (grad_y, grad_x):
            if boundary_grad == "mmcv":
                grad[self.edge] = 0
            if self.mask is not None:
                grad *= self.mask
            grad[self.lost] = np.nan
        return grad_y, grad_x

    def inner(self) -> Bools:
        """Corners that count for the values of samples: those that are held, edges left out."""
        if not len(self.edge):
            return self.held
        held = self.held.copy()
        held[self.edge] = False
        return held

    def sparse(self, weights: Array, table_rows: int, held: Bools) -> sp.csr_array:
        """Matrix with the ``weights``, (samples, 4), of the corners that are ``held``.

        The others have no entry: they must not even multiply a pixel by 0.
        """
        count, index = len(self), self.first.dtype
        rows = np.empty((count, 4), index)
        for corner, step in enumerate(self.steps):
            np.add(self.first, step, out=rows[:, corner])
        starts = np.zeros(count + 1, index)
        # The four flags of a sample are four bytes of 0 or 1: counting bits counts corners.
        np.cumsum(np.bitwise_count(held.view(np.uint32).ravel()), out=starts[1:])
        entries, places = weights.ravel(), rows.ravel()
        if starts[-1] < 4 * count:
            kept = np.flatnonzero(held)
            entries, places = entries.take(kept), places.take(kept)
        return sp.csr_array((entries, places, starts), shape=(count, table_rows))


def scatter(operator: sp.csr_array, grad_columns: Array) -> tuple[Rows, Array]:
    """``operator.T @ grad_columns``, only where rows may differ from 0.

    Returns:
        Which rows, each once, and those rows. They are never more than the operator has entries.
    """
    indices = operator.indices
    if not len(indices):
        return slice(0, 0), np.empty((0, grad_columns.shape[1]), grad_columns.dtype)
    first, end = int(indices.min()), int(indices.max()) + 1
    where: Rows = slice(first, end)
    size, moved = end - first, indices - indices.dtype.type(first)
    if size > len(indices) // 2:
        # Samples lie far apart: number the rows that any of them touches.
        seen = np.zeros(size, np.bool_)
        seen[moved] = True
        touched = np.flatnonzero(seen)
        number = np.empty(size, indices.dtype)
        number[touched] = np.arange(len(touched), dtype=number.dtype)
        where, size, moved = touched + first, len(touched), number.take(moved)
    shape = (len(grad_columns), size)
    narrow = sp.csr_array((operator.data, moved, operator.indptr), shape=shape)
    gains: Array = narrow.T @ grad_columns
    return where, gains


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
    table_rows = (tile.images.stop - first_image) * g.in_pixels * g.offset_groups
    index = np.dtype(np.int32 if table_rows + 4 * g.in_w < 2**31 else np.int64)
    rows = y0.astype(index)
    rows *= g.in_w
    rows += x0.astype(index)
    rows += (images * g.in_pixels).astype(index)[:, None, None, None, None]
    if g.offset_groups > 1:
        rows *= g.offset_groups
        rows += np.arange(g.offset_groups, dtype=index)
    return rows.ravel()


def _held(g: Geometry, y0: Array, x0: Array, near: Bools) -> Bools:
    """Which of the four corners lie in the image, (samples, 4)."""
    held = np.empty((*near.shape, 2, 2), np.bool_)
    top, bottom = near & (y0 >= 0), near & (y0 < g.in_h - 1)
    left, right = x0 >= 0, x0 < g.in_w - 1
    for down, row in enumerate((top, bottom)):
        for along, col in enumerate((left, right)):
            np.logical_and(row, col, out=held[..., down, along])
    return held.reshape(-1, 4)
