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

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cudeform.geometry import Geometry
from cudeform.tiling import Tile

Array = NDArray[Any]
Bools = NDArray[np.bool_]

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Samples:
    """The samples of one tile, one entry for each (position, tap, offset group), in that order.

    Attributes:
        ly, lx: fractions of the coordinate, 0 where ``near`` is false.
        mask: modulation, or None.
        near: ``-1 <= y < H`` and ``-1 <= x < W``: some corner may lie in the image.
        inside: ``-1 < y < H`` and ``-1 < x < W``: the sample may differ from 0.
        lost: a coordinate is NaN.
        corners: for each corner, its row in the table (clamped to a legal one) and whether it lies
            in the image.
    """

    ly: Array
    lx: Array
    mask: Array | None
    near: Bools
    inside: Bools
    lost: Bools
    corners: tuple[tuple[Array, Bools], ...]

    def bilinear(self) -> tuple[Array, Array, Array, Array]:
        """Weights of the corners, in the order of ``CORNERS``."""
        hy, hx = 1 - self.ly, 1 - self.lx
        return hy * hx, hy * self.lx, self.ly * hx, self.ly * self.lx

    def columns(self, table: Array) -> Array:
        """Sample the table: ``S @ table``, (samples, C / offset_groups)."""
        # A mask that is not finite must not meet the weights: infinity times a weight of 0 is NaN.
        late = self.mask is not None and not np.isfinite(self.mask).all()
        mask = None if late else self.mask
        columns: Array = self._operator(mask, len(table)) @ table
        if late and self.mask is not None:
            columns *= self.mask[:, None]
        if self.lost.any():
            columns[self.lost] = np.nan
        return columns

    def scatter(self, grad_columns: Array, table_rows: int) -> tuple[Array, Array]:
        """``S.T @ grad_columns``, without its empty rows.

        Returns:
            The rows of the table that the tile touches, each once, and what each of them gains.
        """
        operator = self._operator(self.mask, table_rows)
        seen = np.zeros(table_rows, np.bool_)
        seen[operator.indices] = True
        touched = np.flatnonzero(seen)
        compact = np.empty(table_rows, operator.indices.dtype)
        compact[touched] = np.arange(len(touched), dtype=compact.dtype)
        operator = sp.csr_array(
            (operator.data, compact[operator.indices], operator.indptr),
            shape=(len(grad_columns), len(touched)),
        )
        return touched, operator.T @ grad_columns

    def corner_dots(self, table: Array, grad_columns: Array) -> Array:
        """Dot product over channels of ``grad_columns`` with each corner, (4, samples).

        The gradients of offset and mask follow from these four numbers. Corners outside the image
        count as 0.
        """
        dots = np.empty((4, len(self.ly)), self.ly.dtype)
        pixels = np.empty_like(grad_columns)
        for dot, (row, valid) in zip(dots, self.corners, strict=True):
            np.take(table, row, axis=0, out=pixels, mode="clip")
            np.einsum("sc,sc->s", pixels, grad_columns, out=dot)
            dot[~valid] = 0
        return dots

    def grad_mask(self, dots: Array) -> Array:
        """Gradient of the mask from the corner dots."""
        grad = sum(weight * dot for weight, dot in zip(self.bilinear(), dots, strict=True))
        grad = np.where(self.inside, grad, 0)
        grad[self.lost] = np.nan
        return grad

    def grad_offset(self, dots: Array, boundary_grad: str) -> tuple[Array, Array]:
        """Gradients of dy and dx from the corner dots."""
        top_left, top_right, bottom_left, bottom_right = dots
        grad_y = self.lx * (bottom_right - top_right) + (1 - self.lx) * (bottom_left - top_left)
        grad_x = self.ly * (bottom_right - bottom_left) + (1 - self.ly) * (top_right - top_left)
        for grad in (grad_y, grad_x):
            if boundary_grad == "mmcv":
                grad[~self.inside] = 0
            if self.mask is not None:
                grad *= self.mask
            grad[self.lost] = np.nan
        return grad_y, grad_x

    def _operator(self, mask: Array | None, table_rows: int) -> sp.csr_array:
        weights = np.empty((len(self.ly), 4), self.ly.dtype)
        rows = np.empty((len(self.ly), 4), self.corners[0][0].dtype)
        held = np.empty((len(self.ly), 4), np.bool_)
        for j, (weight, (row, valid)) in enumerate(
            zip(self.bilinear(), self.corners, strict=True)
        ):
            weights[:, j] = weight if mask is None else weight * mask
            rows[:, j] = row
            np.logical_and(valid, self.inside, out=held[:, j])
        return _compressed(weights, rows, held, table_rows)


def _compressed(weights: Array, rows: Array, held: Bools, table_rows: int) -> sp.csr_array:
    """CSR matrix of the entries that are held; the others must not even multiply a pixel by 0."""
    shape = (len(weights), table_rows)
    if held.all():
        starts = np.arange(0, 4 * len(weights) + 1, 4, dtype=rows.dtype)
        return sp.csr_array((weights.ravel(), rows.ravel(), starts), shape=shape)
    starts = np.zeros(len(weights) + 1, rows.dtype)
    np.cumsum(held.sum(axis=1, dtype=rows.dtype), out=starts[1:])
    kept = np.flatnonzero(held)
    return sp.csr_array((weights.ravel()[kept], rows.ravel()[kept], starts), shape=shape)


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
    y0, ly = _split(_in_order(pairs[:, :, :, 0], tile, dtype), _base_y(g, tile, dtype))
    x0, lx = _split(_in_order(pairs[:, :, :, 1], tile, dtype), _base_x(g, tile, dtype))
    near = (y0 >= -1) & (y0 < g.in_h) & (x0 >= -1) & (x0 < g.in_w)
    lost = np.isnan(y0) | np.isnan(x0)
    far = ~near
    for part in (y0, ly, x0, lx):
        part[far] = 0
    inside = near & ((y0 > -1) | (ly > 0)) & ((x0 > -1) | (lx > 0))
    modulation = None
    if mask is not None:
        planes = mask.reshape(g.batch, g.offset_groups, g.taps, g.out_h, g.out_w)
        modulation = _in_order(planes, tile, dtype).ravel()
    return Samples(
        ly=ly.ravel(),
        lx=lx.ravel(),
        mask=modulation,
        near=near.ravel(),
        inside=inside.ravel(),
        lost=lost.ravel(),
        corners=_corners(g, tile, first_image, y0, x0, near),
    )


def _in_order(planes: Array, tile: Tile, dtype: np.dtype[Any]) -> Array:
    """Cut a tile out of (N, OG, taps, OH, OW): a fresh (images, rows, cols, taps, OG)."""
    part = planes[tile.images, :, :, tile.rows, tile.cols]
    return part.transpose(0, 3, 4, 2, 1).astype(dtype, order="C")


def _split(displacement: Array, base: Array) -> tuple[Array, Array]:
    """Integer part and fraction of ``base + displacement``; the integer part is a float here."""
    whole = np.floor(displacement)
    np.subtract(displacement, whole, out=displacement)
    whole += base
    return whole, displacement


def _base_y(g: Geometry, tile: Tile, dtype: np.dtype[Any]) -> Array:
    rows = np.arange(tile.rows.start, tile.rows.stop)[:, None] * g.stride_h - g.pad_top
    taps = np.repeat(np.arange(g.kernel_h), g.kernel_w) * g.dilation_h
    return (rows + taps).astype(dtype)[:, None, :, None]


def _base_x(g: Geometry, tile: Tile, dtype: np.dtype[Any]) -> Array:
    cols = np.arange(tile.cols.start, tile.cols.stop)[:, None] * g.stride_w - g.pad_left
    taps = np.tile(np.arange(g.kernel_w), g.kernel_h) * g.dilation_w
    return (cols + taps).astype(dtype)[:, :, None]


def _corners(
    g: Geometry, tile: Tile, first_image: int, y0: Array, x0: Array, near: Bools
) -> tuple[tuple[Array, Bools], ...]:
    images = np.arange(tile.images.start, tile.images.stop) - first_image
    table_rows = (tile.images.stop - first_image) * g.in_pixels * g.offset_groups
    index = np.dtype(np.int32 if table_rows < 2**31 else np.int64)
    y, x = y0.astype(index), x0.astype(index)
    image = (images * g.in_pixels).astype(index)[:, None, None, None, None]
    valid_y = (near & (y >= 0), near & (y < g.in_h - 1))
    valid_x = (x >= 0, x < g.in_w - 1)
    first = ((image + y * g.in_w) + x) * g.offset_groups + np.arange(g.offset_groups, dtype=index)
    corners = []
    for down, right in CORNERS:
        row = first + (down * g.in_w + right) * g.offset_groups
        valid = valid_y[down] & valid_x[right]
        corners.append((np.where(valid, row, 0).ravel(), valid.ravel()))
    return tuple(corners)
