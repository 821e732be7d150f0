"""The engine on NumPy arrays: sampling as a sparse product, then a matrix product, tile by tile.

A few output positions at a time go through buffers that stay in the processor's cache. Tiles are
spread over threads; what they add to a shared sum is added in the order of the tiles, so results do
not depend on the number of threads. float16 and bfloat16 are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.blas import single_threaded
from cudeform.geometry import Geometry
from cudeform.operands import Gradients, Operands
from cudeform.options import Options
from cudeform.products import (
    add_grad_weight,
    channels_first,
    grad_columns_of,
    output_of,
    taps_first,
    weight_parts,
)
from cudeform.sampling import Samples, samples
from cudeform.tiling import Item, Result, Tile, in_order, panels, split, tiles
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
    plan: Plan
    weight: Array  # taps first, in the dtype of the arithmetic

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of coordinates, products and sums."""
        return self.weight.dtype

    def samples(self, table: Table, tile: Tile) -> Samples:
        """Where the taps of a tile sample."""
        offset, mask = self.operands.offset, self.operands.mask
        return samples(self.g, tile, table.images.start, offset, mask, self.dtype)

    def columns(self, at: Samples, table: Table) -> Array:
        """What the taps of a tile sample, (positions, taps * C)."""
        return at.columns(table.rows).reshape(-1, self.g.taps * self.g.channels)

    def tiles(self, table: Table) -> list[Tile]:
        """Cover the output of the images on a table."""
        return tiles(self.g, table.images, self.plan.positions)

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Work on the threads of the call; results in order."""

        def run(item: Item) -> Result:
            # Threads do not inherit NumPy's error state; infinity and NaN are values like others.
            with np.errstate(all="ignore"):
                return work(item)

        return in_order(run, items, self.plan.threads)


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of the arithmetic on arrays of ``dtype``: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def forward(operands: Operands, g: Geometry, options: Options, output: Array) -> None:
    """Write the deformable convolution of ``operands`` into ``output``."""
    dtype = compute_dtype(operands.input.dtype)
    plan = forward_plan(g, dtype.itemsize, options)
    call = Call(operands, g, options, plan, taps_first(g, operands.weight, dtype))
    bias = None if operands.bias is None else operands.bias.astype(dtype)[:, None]

    with _one_thread_each(call):
        for table in _tables(call):

            def work(tile: Tile, table: Table = table) -> None:
                columns = call.columns(call.samples(table, tile), table)
                result = output_of(g, call.weight, columns)
                if bias is not None:
                    result += bias
                output[tile.box] = result.reshape(-1, *tile.shape).swapaxes(0, 1)

            _finish(call.each(work, call.tiles(table)))


def backward(
    operands: Operands, g: Geometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    dtype = compute_dtype(operands.input.dtype)
    plan = backward_plan(g, dtype.itemsize, options)
    call = Call(operands, g, options, plan, taps_first(g, operands.weight, dtype))
    sums = Sums.zero(call, grads)

    with _one_thread_each(call):
        for table in _tables(call):
            rows = None if grads.input is None else np.zeros_like(table.rows)
            for run in panels(call.tiles(table), plan.panel):
                _backward_panel(call, table, run, grad_output, grads, sums, rows)
            if rows is not None:
                image = rows.reshape(-1, g.in_h, g.in_w, g.channels)
                _copy_by_rows(call, image, grads.input[table.images].transpose(0, 2, 3, 1))
    if sums.weight is not None:
        grads.weight[...] = channels_first(g, sums.weight)
    if sums.bias is not None:
        grads.bias[...] = sums.bias


@dataclass(frozen=True)
class Sums:
    """Gradients that every position adds to, in the dtype of the arithmetic."""

    weight: Array | None  # taps first
    bias: Array | None

    @classmethod
    def zero(cls, call: Call, grads: Gradients) -> Sums:
        """Sums of those gradients that are wanted."""
        return cls(
            weight=None if grads.weight is None else np.zeros_like(call.weight),
            bias=None if grads.bias is None else np.zeros(call.g.out_channels, call.dtype),
        )


@dataclass(frozen=True)
class Panel:
    """What the tiles of a panel leave for the sums."""

    grad_output: Array  # (O, positions)
    columns: Array | None  # (positions, taps * C), for the gradient of the weight

    def part(self, positions: slice) -> Panel:
        """The share of some positions, as views."""
        columns = None if self.columns is None else self.columns[positions]
        return Panel(self.grad_output[:, positions], columns)


def _backward_panel(
    call: Call,
    table: Table,
    run: list[Tile],
    grad_output: Array,
    grads: Gradients,
    sums: Sums,
    rows: Array | None,
) -> None:
    """Gradients of a few tiles: first each tile's own, then the sums over all their positions."""
    g = call.g
    ends = np.cumsum([tile.positions for tile in run])
    panel = Panel(
        np.empty((g.out_channels, ends[-1]), call.dtype),
        None if sums.weight is None else np.empty((ends[-1], g.taps * g.channels), call.dtype),
    )

    def work(item: tuple[Tile, int]) -> tuple[Array, Array] | None:
        tile, end = item
        part = panel.part(slice(end - tile.positions, end))
        return _backward_tile(call, table, tile, part, grad_output, grads)

    for gain in call.each(work, zip(run, ends, strict=True)):
        if rows is not None and gain is not None:
            rows[gain[0]] += gain[1]

    if sums.weight is not None and panel.columns is not None:
        add = partial(add_grad_weight, g, panel.grad_output, panel.columns, sums.weight)
        _finish(call.each(add, weight_parts(g)))
    if sums.bias is not None:
        sums.bias[...] += panel.grad_output.sum(axis=1)


def _backward_tile(
    call: Call, table: Table, tile: Tile, panel: Panel, grad_output: Array, grads: Gradients
) -> tuple[Array, Array] | None:
    """Fill a tile's share of the panel, write its gradients of offset and mask.

    Returns:
        Rows of the table, each once, and what they gain; None if the input needs no gradient.
    """
    g = call.g
    at = call.samples(table, tile)
    shares = panel.grad_output.reshape(g.out_channels, *tile.shape, copy=False)
    shares[...] = grad_output[tile.box].swapaxes(0, 1)
    if panel.columns is not None:
        panel.columns[...] = call.columns(at, table)
    if grads.input is grads.offset is grads.mask is None:
        return None
    grad_columns = grad_columns_of(g, call.weight, panel.grad_output)
    grad_columns = grad_columns.reshape(-1, g.channels // g.offset_groups)
    if not (grads.offset is grads.mask is None):
        _grad_coordinates(call, table, tile, at, grad_columns, grads)
    return None if grads.input is None else at.scatter(grad_columns, len(table.rows))


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


def _tables(call: Call) -> Iterator[Table]:
    """Put the images on channels-last tables; a view where they already lie so."""
    g = call.g
    for images in split(g.batch, call.plan.images):
        batch = call.operands.input[images].transpose(0, 2, 3, 1)
        if batch.dtype != call.dtype or not batch.flags.c_contiguous:
            last = np.empty(batch.shape, call.dtype)
            _copy_by_rows(call, batch, last)
            batch = last
        yield Table(images, batch.reshape(-1, g.channels // g.offset_groups))


def _copy_by_rows(call: Call, source: Array, target: Array) -> None:
    def copy(rows: slice) -> None:
        target[:, rows] = source[:, rows]

    _finish(call.each(copy, split(source.shape[1], 16)))


def _one_thread_each(call: Call) -> AbstractContextManager[None]:
    """Keep BLAS from using threads of its own, unless the call is one small product."""
    alone = call.g.batch * call.g.out_pixels <= call.plan.positions
    return nullcontext() if alone else single_threaded()


def _finish(work: Iterator[None]) -> None:
    for _ in work:
        pass
