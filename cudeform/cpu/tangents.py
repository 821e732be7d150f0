"""How the samples of a call move along tangents of its operands.

With ``b`` the bilinear weights of a sample, ``b'`` their slopes, ``m`` its mask and ``x`` the
pixels at its corners,

    column       sum_j m b_j x_j
    its tangent  sum_j t_j x_j + sum_j m b_j v_x,j    where  t = v_m b + m (v_dy b'_y + v_dx b'_x),

two products with sparse matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import scipy.sparse as sp

from cudeform.arrays import Tangents
from cudeform.cpu.call import Array, Call, Table
from cudeform.cpu.products import grad_columns_of, output_of, taps_first
from cudeform.cpu.samples import Samples
from cudeform.cpu.sampling import in_sample_order
from cudeform.cpu.tiles import Tile


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
        zero_boundary_grad: samples whose coordinate is -1 do not move.
    """

    at: Samples
    place: Place
    tile: Tile
    dy: Array | None
    dx: Array | None
    mask: Array | None
    zero_boundary_grad: bool

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
        if self.zero_boundary_grad:
            slopes[self.at.edge] = 0
        return slopes


@dataclass(frozen=True)
class Direction:
    """A call and the tangents of its operands."""

    call: Call
    tangents: Tangents
    weight: Array | None  # tangent of the weight, taps first

    @classmethod
    def of(cls, call: Call, tangents: Tangents) -> Direction:
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
        zero_boundary_grad = self.call.options.boundary_grad == "zero"
        return Move(at, place, tile, dy, dx, change, zero_boundary_grad)

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
