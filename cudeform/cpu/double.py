"""Forward mode, and the gradients of the gradients.

The gradients ``G = backward(c)`` meet the cotangents ``v`` in one number,

    sum(v * G) = sum(c * jvp(v)),

so both follow from the tangent of the columns. With ``b`` the bilinear weights of a sample, ``b'``
their slopes, ``m`` its mask and ``x`` the pixels at its corners,

    column       sum_j m b_j x_j
    its tangent  sum_j t_j x_j + sum_j m b_j v_x,j    where  t = v_m b + m (v_dy b'_y + v_dx b'_x),

two products with sparse matrices. Their gradients need the transposed matrices and, for offset and
mask, the corner dots of three pairs of pixels and gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import scipy.sparse as sp

from cudeform.cpu.backward import write_mask, write_offset
from cudeform.cpu.blas import single_threaded
from cudeform.cpu.call import Array, Call, Table
from cudeform.cpu.panels import Gain, Panel, Sums, work_through
from cudeform.cpu.products import grad_columns_of, output_of, taps_first
from cudeform.cpu.sampling import Samples, in_sample_order, scatter
from cudeform.cpu.tiles import Tile
from cudeform.cpu.workspace import double_plan
from cudeform.geometry import Geometry
from cudeform.operands import DoubleGradients, Gradients, Operands
from cudeform.options import Options


def jvp(
    operands: Operands, g: Geometry, options: Options, tangents: Gradients, result: Array
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
    cotangents: Gradients,
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


@dataclass(frozen=True)
class Place:
    """Some images, and their tangents or None, with their channels last."""

    table: Table
    tangent: Table | None


@dataclass(frozen=True)
class Move:
    """The samples of a tile and how they move.

    Attributes:
        at: the samples.
        place: the images they lie in.
        tile: the tile.
        dy, dx, mask: tangents in the order of the samples, or None.
        mmcv: samples whose coordinate is -1 do not move.
    """

    at: Samples
    place: Place
    tile: Tile
    dy: Array | None
    dx: Array | None
    mask: Array | None
    mmcv: bool

    def columns(self) -> Array:
        """Tangent of the columns, (samples, C / offset_groups)."""
        rows = self.place.table.rows
        columns = np.zeros((len(self.at), rows.shape[1]), rows.dtype)
        if self.turns():
            columns += self.operator() @ rows
        if self.place.tangent is not None:
            columns += self.at.operator(len(rows)) @ self.place.tangent.rows
        columns[self.at.lost] = np.nan
        return columns

    def turns(self) -> bool:
        """Whether the weights of the corners change."""
        return self.dy is not None or self.mask is not None

    def operator(self) -> sp.csr_array:
        """The sparse matrix of the changes ``t`` of the weights of the corners."""
        at = self.at
        weights = np.zeros((len(at), 4), at.ly.dtype)
        if self.mask is not None:
            weights += at.bilinear(self.mask)
            weights[at.edge] = 0
        if self.dy is not None and self.dx is not None:
            slopes = self._slopes(self.dy, self.dx)
            weights += slopes if at.mask is None else slopes * at.mask[:, None]
        return at.sparse(weights, len(self.place.table.rows), at.held)

    def _slopes(self, dy: Array, dx: Array) -> Array:
        """Changes of the bilinear weights, (samples, 4)."""
        below, above, right, left = self.at.ly, 1 - self.at.ly, self.at.lx, 1 - self.at.lx
        slopes = np.stack(
            [
                -left * dy - above * dx,
                -right * dy + above * dx,
                left * dy - below * dx,
                right * dy + below * dx,
            ],
            axis=1,
        )
        if self.mmcv:
            slopes[self.at.edge] = 0
        return slopes


@dataclass(frozen=True)
class Direction:
    """A call and the tangents of its operands."""

    call: Call
    tangents: Gradients
    weight: Array | None  # tangent of the weight, taps first

    @classmethod
    def of(cls, call: Call, tangents: Gradients) -> Direction:
        """Prepare the tangents."""
        weight = tangents.weight
        packed = None if weight is None else taps_first(call.g, weight, call.dtype)
        return cls(call, tangents, packed)

    def places(self) -> Iterator[Place]:
        """The images of the call, a table at a time."""
        tables = self.call.tables(self.call.operands.input)
        tangent = self.tangents.input
        moved = repeat(None) if tangent is None else self.call.tables(tangent)
        return (Place(table, other) for table, other in zip(tables, moved, strict=False))

    def move(self, place: Place, tile: Tile) -> Move:
        """The samples of a tile and how they move."""
        g, offset, mask = self.call.g, self.tangents.offset, self.tangents.mask
        dy = dx = change = None
        if offset is not None:
            pairs = offset.reshape(g.batch, g.offset_groups, g.taps, 2, g.out_h, g.out_w)
            dy = in_sample_order(pairs[:, :, :, 0], tile, self.call.dtype).ravel()
            dx = in_sample_order(pairs[:, :, :, 1], tile, self.call.dtype).ravel()
        if mask is not None:
            planes = mask.reshape(g.batch, g.offset_groups, g.taps, g.out_h, g.out_w)
            change = in_sample_order(planes, tile, self.call.dtype).ravel()
        at = self.call.samples(place.table, tile)
        mmcv = self.call.options.boundary_grad == "mmcv"
        return Move(at, place, tile, dy, dx, change, mmcv)

    def output(self, move: Move, columns: Array) -> Array:
        """Tangent of a tile's output, (images, O, rows, cols), from that of its columns."""
        call = self.call
        result = output_of(call.g, call.weight, call.by_position(columns))
        if self.weight is not None:
            here = call.columns(move.at, move.place.table)
            result = result + output_of(call.g, self.weight, here)
        if self.tangents.bias is not None:
            result = result + self.tangents.bias.astype(call.dtype)[:, None]
        return result.reshape(call.g.out_channels, *move.tile.shape).swapaxes(0, 1)

    def grad_columns(self, weight: Array, grad_output: Array, like: Samples) -> Array:
        """Gradient of the columns that meet ``weight``, (samples, C / offset_groups)."""
        g = self.call.g
        grad = grad_columns_of(g, weight, grad_output)
        return grad.reshape(len(like), g.channels // g.offset_groups)


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
            if move.mmcv:
                along[at.edge] = 0
            grad_mask += along
        write_mask(call, move.tile, grad_mask, results.mask)
    if results.offset is not None:
        write_offset(call, move.tile, _grad_offset(move, moved, still), results.offset)


def _grad_offset(move: Move, moved: Array, still: Array) -> tuple[Array, Array]:
    at = move.at
    grad_y, grad_x = at.grad_offset(moved, "mmcv" if move.mmcv else "torchvision")
    if move.mask is not None:
        slope_y, slope_x = at.slopes(still)
        grad_y, grad_x = grad_y + move.mask * slope_y, grad_x + move.mask * slope_x
    if move.dy is not None and move.dx is not None:
        # The one second derivative of a bilinear surface is the mixed one.
        twist = still[0] - still[1] - still[2] + still[3]
        if at.mask is not None:
            twist *= at.mask
        grad_y, grad_x = grad_y + move.dx * twist, grad_x + move.dy * twist
    if move.mmcv:
        grad_y[at.edge] = grad_x[at.edge] = 0
    return grad_y, grad_x
