"""The engine on NumPy arrays: sampling as a sparse product, then a matrix product, tile by tile.

A few output positions at a time go through buffers that stay in the processor's cache. Tiles are
spread over threads; what they add to a shared sum is added in the order of the tiles, so results do
not depend on the number of threads. float16 and bfloat16 are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.blas import single_threaded
from cudeform.geometry import Geometry
from cudeform.operands import Gradients, Operands
from cudeform.options import Options
from cudeform.products import (
    channels_first,
    grad_columns_of,
    grad_weight_of,
    output_of,
    taps_first,
)
from cudeform.sampling import Samples, samples
from cudeform.tiling import Result, Tile, in_order, split, tiles
from cudeform.workspace import Plan, backward_plan, forward_plan

Array = NDArray[Any]


@dataclass(frozen=True)
class Table:
    """Some images with their channels last, as rows of one (pixel, offset group) each."""

    images: slice
    rows: Array


@dataclass(frozen=True)
class Call:
    """What every tile of a call needs."""

    operands: Operands
    g: Geometry
    options: Options
    weight: Array  # taps first, in the dtype of the arithmetic

    @classmethod
    def of(cls, operands: Operands, g: Geometry, options: Options) -> Call:
        """Prepare a call."""
        dtype = compute_dtype(operands.input.dtype)
        return cls(operands, g, options, taps_first(g, operands.weight, dtype))

    def samples(self, table: Table, tile: Tile) -> Samples:
        """Where the taps of a tile sample."""
        offset, mask = self.operands.offset, self.operands.mask
        return samples(self.g, tile, table.images.start, offset, mask, self.weight.dtype)

    def columns(self, at: Samples, table: Table) -> Array:
        """What the taps of a tile sample, (positions, taps * C)."""
        return at.columns(table.rows).reshape(-1, self.g.taps * self.g.channels)


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of coordinates, products and sums: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def forward(operands: Operands, g: Geometry, options: Options, output: Array) -> None:
    """Write the deformable convolution of ``operands`` into ``output``."""
    call = Call.of(operands, g, options)
    plan = forward_plan(g, call.weight.itemsize, options)

    def work(table: Table, tile: Tile) -> None:
        at = call.samples(table, tile)
        result = output_of(g, call.weight, call.columns(at, table))
        if operands.bias is not None:
            result += operands.bias.astype(result.dtype)[:, None]
        output[tile.box] = result.reshape(-1, *tile.shape).swapaxes(0, 1)

    with _quiet(g, plan):
        for table in _tables(call, plan):
            for _ in _over_tiles(work, g, plan, table):
                pass


def backward(
    operands: Operands, g: Geometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    call = Call.of(operands, g, options)
    plan = backward_plan(g, call.weight.itemsize, options)
    grad_weight = np.zeros_like(call.weight) if grads.weight is not None else None
    grad_bias = np.zeros(g.out_channels, call.weight.dtype)

    def work(table: Table, tile: Tile) -> Shares:
        return _backward_tile(call, table, tile, grad_output, grads)

    with _quiet(g, plan):
        for table in _tables(call, plan):
            grad_rows = np.zeros_like(table.rows) if grads.input is not None else None
            for shares in _over_tiles(work, g, plan, table):
                shares.add_to(grad_rows, grad_weight, grad_bias)
            if grads.input is not None and grad_rows is not None:
                image = grad_rows.reshape(-1, g.in_h, g.in_w, g.channels)
                grads.input[table.images] = image.transpose(0, 3, 1, 2)
    if grads.weight is not None and grad_weight is not None:
        grads.weight[...] = channels_first(g, grad_weight)
    if grads.bias is not None:
        grads.bias[...] = grad_bias


@dataclass(frozen=True)
class Shares:
    """What one tile adds to the gradients that it shares with other tiles."""

    bias: Array
    weight: Array | None
    touched: Array | None  # rows of the table, each once
    rows: Array | None  # what those rows gain

    def add_to(self, rows: Array | None, weight: Array | None, bias: Array) -> None:
        """Add to the sums."""
        bias += self.bias
        if weight is not None:
            weight += self.weight
        if rows is not None:
            rows[self.touched] += self.rows


def _backward_tile(
    call: Call, table: Table, tile: Tile, grad_output: Array, grads: Gradients
) -> Shares:
    g = call.g
    at = call.samples(table, tile)
    grad = grad_output[tile.box].swapaxes(0, 1).astype(call.weight.dtype, order="C")
    grad = grad.reshape(g.out_channels, -1)
    weight = touched = rows = None
    if grads.weight is not None:
        weight = grad_weight_of(g, grad, call.columns(at, table))
    if not (grads.input is grads.offset is grads.mask is None):
        grad_columns = grad_columns_of(g, call.weight, grad)
        grad_columns = grad_columns.reshape(-1, g.channels // g.offset_groups)
        if grads.input is not None:
            touched, rows = at.scatter(grad_columns, len(table.rows))
        if not (grads.offset is grads.mask is None):
            _grad_coordinates(call, table, tile, at, grad_columns, grads)
    return Shares(grad.sum(axis=1), weight, touched, rows)


def _grad_coordinates(
    call: Call, table: Table, tile: Tile, at: Samples, grad_columns: Array, grads: Gradients
) -> None:
    g = call.g
    dots = at.corner_dots(table.rows, grad_columns)
    if grads.offset is not None:
        pairs = grads.offset.reshape(g.batch, g.offset_groups, g.taps, 2, g.out_h, g.out_w)
        for which, grad in enumerate(at.grad_offset(dots, call.options.boundary_grad)):
            at_tile = pairs[tile.images, :, :, which, tile.rows, tile.cols]
            at_tile[...] = _planes(g, tile, grad)
    if grads.mask is not None:
        planes = grads.mask.reshape(g.batch, g.offset_groups, g.taps, g.out_h, g.out_w)
        at_tile = planes[tile.images, :, :, tile.rows, tile.cols]
        at_tile[...] = _planes(g, tile, at.grad_mask(dots))


def _planes(g: Geometry, tile: Tile, values: Array) -> Array:
    """One value for each sample of a tile, as (images, OG, taps, rows, cols)."""
    return values.reshape(*tile.shape, g.taps, g.offset_groups).transpose(0, 4, 3, 1, 2)


def _tables(call: Call, plan: Plan) -> Iterator[Table]:
    """Put the images on channels-last tables; a view where they already lie so."""
    g, dtype = call.g, call.weight.dtype
    for images in split(g.batch, plan.images):
        batch = call.operands.input[images].transpose(0, 2, 3, 1)
        last = batch if batch.dtype == dtype and batch.flags.c_contiguous else None
        if last is None:
            last = np.empty(batch.shape, dtype)
            _copy_by_rows(batch, last, plan.threads)
        yield Table(images, last.reshape(-1, g.channels // g.offset_groups))


def _copy_by_rows(source: Array, target: Array, threads: int) -> None:
    def copy(rows: slice) -> None:
        target[:, rows] = source[:, rows]

    for _ in in_order(copy, split(source.shape[1], 16), threads):
        pass


def _over_tiles(
    work: Callable[[Table, Tile], Result], g: Geometry, plan: Plan, table: Table
) -> Iterator[Result]:
    def run(tile: Tile) -> Result:
        # Threads do not inherit NumPy's error state; infinities and NaN are values like others.
        with np.errstate(all="ignore"):
            return work(table, tile)

    return in_order(run, tiles(g, table.images, plan.positions), plan.threads)


def _quiet(g: Geometry, plan: Plan) -> Any:
    """Keep BLAS from using threads of its own, unless the call is one small product."""
    alone = g.batch * g.out_pixels <= plan.positions
    return nullcontext() if alone else single_threaded()
