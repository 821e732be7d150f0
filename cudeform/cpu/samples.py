"""The samples of a tile as a sparse matrix, and what follows from them.

For a tile of output positions the operator ``S`` has one row for each (position, tap, offset group)
and one column for each (input pixel, offset group); a row holds the bilinear weights of the corners
that lie in the image, at most four. With ``table`` the channels-last image viewed as
``(pixels * offset_groups, C / offset_groups)``:

    columns = S @ table          grad_table = S.T @ grad_columns
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from cudeform.cpu.sparse import Array, Bools, Rows, of_corners, scatter

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
            if boundary_grad == "zero":
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
        """Matrix with the ``weights``, (samples, 4), of the corners that are ``held``."""
        rows = np.empty((len(self), 4), self.first.dtype)
        for corner, step in enumerate(self.steps):
            np.add(self.first, step, out=rows[:, corner])
        return of_corners(weights, rows, held, table_rows)
