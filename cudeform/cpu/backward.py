"""Backward: a panel of tiles at a time; first what each tile owns, then the sums over all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from cudeform.cpu.blas import single_threaded
from cudeform.cpu.call import Array, Call, Table
from cudeform.cpu.products import add_grad_weight, channels_first, grad_columns_of, weight_parts
from cudeform.cpu.sampling import Samples
from cudeform.cpu.tiles import Tile, panels
from cudeform.cpu.workspace import backward_plan
from cudeform.geometry import Geometry
from cudeform.operands import Gradients, Operands
from cudeform.options import Options


def backward(
    operands: Operands, g: Geometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    call = Call.of(operands, g, options, backward_plan)
    sums = Sums.zero(call, grads)
    with single_threaded():
        room = None if grads.input is None else call.table_room()
        for table in call.tables(operands.input):
            rows = None
            if room is not None:
                rows = room[: len(table.rows)]
                rows[...] = 0
            for run in panels(call.tiles(table), call.plan.panel):
                _panel(call, table, run, grad_output, grads, sums, rows)
            if rows is not None:
                target = grads.input[table.images].transpose(0, 2, 3, 1)
                call.copy(rows.reshape(target.shape), target)
    sums.write(g, grads)


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

    def write(self, g: Geometry, grads: Gradients) -> None:
        """Round the sums into the gradients."""
        if self.weight is not None:
            grads.weight[...] = channels_first(g, self.weight)
        if self.bias is not None:
            grads.bias[...] = self.bias


@dataclass(frozen=True)
class Panel:
    """What the tiles of a panel leave for the sums."""

    grad_output: Array  # (O, positions)
    columns: Array | None  # (positions, taps * C), for the gradient of the weight

    @classmethod
    def of(cls, call: Call, positions: int, *, columns: bool) -> Panel:
        """Room for some positions."""
        g = call.g
        return cls(
            np.empty((g.out_channels, positions), call.dtype),
            np.empty((positions, g.taps * g.channels), call.dtype) if columns else None,
        )

    def part(self, positions: slice) -> Panel:
        """The share of some positions, as views."""
        columns = None if self.columns is None else self.columns[positions]
        return Panel(self.grad_output[:, positions], columns)


def _panel(
    call: Call,
    table: Table,
    run: list[Tile],
    grad_output: Array,
    grads: Gradients,
    sums: Sums,
    rows: Array | None,
) -> None:
    ends = np.cumsum([tile.positions for tile in run])
    panel = Panel.of(call, ends[-1], columns=sums.weight is not None)

    def work(item: tuple[Tile, int]) -> tuple[Array, Array] | None:
        tile, end = item
        part = panel.part(slice(end - tile.positions, end))
        return _tile(call, table, tile, part, grad_output, grads)

    for gain in call.each(work, list(zip(run, ends, strict=True))):
        if rows is not None and gain is not None:
            rows[gain[0]] += gain[1]
    if sums.weight is not None and panel.columns is not None:
        add = partial(add_grad_weight, call.g, panel.grad_output, panel.columns, sums.weight)
        call.do(add, weight_parts(call.g))
    if sums.bias is not None:
        sums.bias[...] += panel.grad_output.sum(axis=1)


def _tile(
    call: Call, table: Table, tile: Tile, panel: Panel, grad_output: Array, grads: Gradients
) -> tuple[Array, Array] | None:
    """Fill a tile's share of the panel, write its gradients of offset and mask.

    Returns:
        Rows of the table, each once, and what they gain; None if the input needs no gradient.
    """
    g = call.g
    at = call.samples(table, tile)
    share = panel.grad_output.reshape(g.out_channels, *tile.shape, copy=False)
    share[...] = grad_output[tile.box].swapaxes(0, 1)
    if panel.columns is not None:
        panel.columns[...] = call.columns(at, table)
    if grads.input is grads.offset is grads.mask is None:
        return None
    grad_columns = grad_columns_of(g, call.weight, panel.grad_output)
    grad_columns = grad_columns.reshape(len(at), g.channels // g.offset_groups)
    if not (grads.offset is grads.mask is None):
        dots = at.corner_dots(table.rows, grad_columns)
        _write_coordinates(call, tile, at, dots, grads)
    return None if grads.input is None else at.scatter(grad_columns, len(table.rows))


def _write_coordinates(call: Call, tile: Tile, at: Samples, dots: Array, grads: Gradients) -> None:
    """Write the gradients of offset and mask from the corner dots."""
    g = call.g
    if grads.offset is not None:
        pairs = grads.offset.reshape(g.batch, g.offset_groups, g.taps, 2, g.out_h, g.out_w)
        for which, grad in enumerate(at.grad_offset(dots, call.options.boundary_grad)):
            target = pairs[tile.images, :, :, which, tile.rows, tile.cols]
            target[...] = tile.planes(grad, g.taps, g.offset_groups)
    if grads.mask is not None:
        planes = grads.mask.reshape(g.batch, g.offset_groups, g.taps, g.out_h, g.out_w)
        target = planes[tile.images, :, :, tile.rows, tile.cols]
        target[...] = tile.planes(at.grad_mask(dots), g.taps, g.offset_groups)
