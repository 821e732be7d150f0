"""Forward mode, and the gradients of the gradients.

The gradients ``G = backward(c)`` meet the cotangents ``v`` in one number,

    sum(v * G) = sum(c * jvp(v)),

so both follow from the tangent of the columns, which ``tangents.py`` derives. Its gradients need
the transposed matrices and, for offset and mask, the corner dots of three pairs of pixels and
gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cudeform.arrays import DoubleGradients, Operands, Tangents
from cudeform.cpu.backward import write_mask, write_offset
from cudeform.cpu.blas import single_threaded
from cudeform.cpu.call import Array, Call
from cudeform.cpu.panels import Gain, Panel, Sums, work_through
from cudeform.cpu.sparse import scatter
from cudeform.cpu.tangents import Direction, Move, Place
from cudeform.cpu.tiles import Tile
from cudeform.cpu.workspace import double_plan
from cudeform.geometry import Geometry
from cudeform.options import Options


def jvp(
    operands: Operands, g: Geometry, options: Options, tangents: Tangents, result: Array
) -> None:
    """Write the tangent of the output; tangents that are None are zero."""
    direction = Direction.of(Call.of(operands, g, options, double_plan), tangents)
    with single_threaded():
        for place in direction.places():

            def work(tile: Tile, place: Place = place) -> None:
                move = direction.move(place, tile)
                result[tile.box] = direction.output(move, move.columns())

            direction.call.do(work, direction.call.tiles(place.table))


def double_backward(
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: Array,
    cotangents: Tangents,
    results: DoubleGradients,
) -> None:
    """Write the gradients of ``sum(cotangents * backward(...))`` into ``results``."""
    call = Call.of(operands, g, options, double_plan)
    direction = Direction.of(call, cotangents)
    sums = Sums.zero(
        call, weight=results.weight is not None, bias=False, rows=results.input is not None
    )
    with single_threaded():
        for place in direction.places():

            def work(tile: Tile, panel: Panel, place: Place = place) -> Iterator[Gain]:
                return _tile(direction, direction.move(place, tile), panel, results)

            sums.begin(place.table)
            work_through(call, place.table, grad_output, sums, work)
            sums.write_images(call, place.table, results.input)
    sums.write_rest(call, results.weight, None)


def _tile(
    direction: Direction, move: Move, panel: Panel, results: DoubleGradients
) -> Iterator[Gain]:
    call, at, rows = direction.call, move.at, move.place.table.rows
    if results.grad_output is not None or panel.columns is not None:
        columns = move.columns()
        if panel.columns is not None:
            panel.columns[...] = call.by_position(columns)
        if results.grad_output is not None:
            results.grad_output[move.tile.box] = direction.output(move, columns)
    if results.input is results.offset is results.mask is None:
        return
    grad = direction.grad_columns(call.weight, panel.grad_output, at)
    other = None
    if direction.weight is not None:
        other = direction.grad_columns(direction.weight, panel.grad_output, at)
    if results.offset is not None or results.mask is not None:
        _write_coordinates(call, move, grad, other, results)
    if results.input is not None:
        if move.turns():
            yield scatter(move.operator(), grad)
        if other is not None:
            yield at.scatter(other, len(rows))


def _write_coordinates(
    call: Call, move: Move, grad: Array, other: Array | None, results: DoubleGradients
) -> None:
    """Write a tile's gradients of offset and mask.

    ``moved`` are the corner dots that change with the pixels or the weight, ``still`` those that
    change with offset and mask alone.
    """
    at, place = move.at, move.place
    moved = np.zeros((4, len(at)), at.ly.dtype)
    if place.tangent is not None:
        moved += at.corner_dots(place.tangent.rows, grad)
    if other is not None:
        moved += at.corner_dots(place.table.rows, other)
    still = at.corner_dots(place.table.rows, grad) if move.turns() else np.zeros_like(moved)
    if results.mask is not None:
        grad_mask = at.grad_mask(moved)
        if move.dy is not None and move.dx is not None:
            slope_y, slope_x = at.slopes(still)
            along = move.dy * slope_y + move.dx * slope_x
            if move.zero_boundary_grad:
                along[at.edge] = 0
            grad_mask += along
        write_mask(call, move.tile, grad_mask, results.mask)
    if results.offset is not None:
        write_offset(call, move.tile, _grad_offset(move, moved, still), results.offset)


def _grad_offset(move: Move, moved: Array, still: Array) -> tuple[Array, Array]:
    at = move.at
    grad_y, grad_x = at.grad_offset(moved, "zero" if move.zero_boundary_grad else "one_sided")
    if move.mask is not None:
        slope_y, slope_x = at.slopes(still)
        grad_y, grad_x = grad_y + move.mask * slope_y, grad_x + move.mask * slope_x
    if move.dy is not None and move.dx is not None:
        # The one second derivative of a bilinear surface is the mixed one.
        twist = still[0] - still[1] - still[2] + still[3]
        if at.mask is not None:
            twist *= at.mask
        grad_y, grad_x = grad_y + move.dx * twist, grad_x + move.dy * twist
    if move.zero_boundary_grad:
        grad_y[at.edge] = grad_x[at.edge] = 0
    return grad_y, grad_x
