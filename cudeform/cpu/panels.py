"""Panels: tiles in runs, so that the weight's gradient is one large product, not many small ones.

The tiles of a panel leave their columns and their share of grad_output side by side. When all are
done, parts of the weight's gradient are worked out next to each other, each over all positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from cudeform.cpu.call import Array, Call, Table
from cudeform.cpu.products import add_grad_weight, channels_first, weight_parts
from cudeform.cpu.sparse import Rows
from cudeform.cpu.tiles import Tile, panels

# Rows of a table, each once, and what they gain.
Gain = tuple[Rows, Array]


@dataclass(frozen=True)
class Panel:
    """What tiles leave behind.

    Attributes:
        grad_output: (O, positions).
        columns: (positions, taps * C), or None if the weight needs no gradient.
    """

    grad_output: Array
    columns: Array | None

    def part(self, positions: slice) -> Panel:
        """The share of some positions, as views."""
        columns = None if self.columns is None else self.columns[positions]
        return Panel(self.grad_output[:, positions], columns)


@dataclass(frozen=True)
class Sums:
    """Gradients that every position adds to, in the dtype of the arithmetic.

    Attributes:
        weight: taps first, or None.
        bias: (O,), or None.
        rows: channels-last gradient of the images on the largest table, or None.
    """

    weight: Array | None
    bias: Array | None
    rows: Array | None

    @classmethod
    def zero(cls, call: Call, *, weight: bool, bias: bool, rows: bool) -> Sums:
        """Sums of those gradients that are wanted."""
        return cls(
            weight=np.zeros_like(call.weight) if weight else None,
            bias=np.zeros(call.g.out_channels, call.dtype) if bias else None,
            rows=call.table_room() if rows else None,
        )

    def begin(self, table: Table) -> None:
        """Forget the images of the last table."""
        if self.rows is not None:
            self.rows[: len(table.rows)] = 0

    def write_images(self, call: Call, table: Table, grad_input: Array | None) -> None:
        """Round the gradient of the images on a table."""
        if self.rows is not None and grad_input is not None:
            target = grad_input[table.images].transpose(0, 2, 3, 1)
            call.copy(self.rows[: len(table.rows)].reshape(target.shape), target)

    def write_rest(self, call: Call, grad_weight: Array | None, grad_bias: Array | None) -> None:
        """Round the gradients of weight and bias."""
        if self.weight is not None and grad_weight is not None:
            grad_weight[...] = channels_first(call.g, self.weight)
        if self.bias is not None and grad_bias is not None:
            grad_bias[...] = self.bias


def work_through(
    call: Call,
    table: Table,
    grad_output: Array,
    sums: Sums,
    work: Callable[[Tile, Panel], Iterable[Gain]],
) -> None:
    """Work on all tiles of a table and add what they leave to the sums.

    Args:
        call: the call.
        table: its images.
        grad_output: (N, O, OH, OW).
        sums: what is added to.
        work: fills the columns of a tile's share of the panel; returns what rows gain.
    """
    for run in panels(call.tiles(table), call.plan.panel):
        ends = np.cumsum([tile.positions for tile in run]).tolist()
        panel = _room(call, ends[-1], columns=sums.weight is not None)

        def one(item: tuple[Tile, int], panel: Panel = panel) -> list[Gain]:
            tile, end = item
            part = panel.part(slice(end - tile.positions, end))
            share = part.grad_output.reshape(call.g.out_channels, *tile.shape, copy=False)
            share[...] = grad_output[tile.box].swapaxes(0, 1)
            return list(work(tile, part))

        for gains in call.each(one, list(zip(run, ends, strict=True))):
            for rows, gain in gains:
                if sums.rows is not None:
                    sums.rows[rows] += gain
        _add(call, panel, sums)


def _room(call: Call, positions: int, *, columns: bool) -> Panel:
    g = call.g
    return Panel(
        np.empty((g.out_channels, positions), call.dtype),
        np.empty((positions, g.taps * g.channels), call.dtype) if columns else None,
    )


def _add(call: Call, panel: Panel, sums: Sums) -> None:
    if sums.weight is not None and panel.columns is not None:
        add = partial(add_grad_weight, call.g, panel.grad_output, panel.columns, sums.weight)
        call.do(add, weight_parts(call.g))
    if sums.bias is not None:
        sums.bias[...] += panel.grad_output.sum(axis=1)
