"""Sparse matrices of four corners a sample, and what their transposed products give a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Array = NDArray[Any]
Bools = NDArray[np.bool_]

# Rows of a table, each once.
Rows = slice | NDArray[np.intp]


def of_corners(weights: Array, rows: Array, held: Bools, table_rows: int) -> sp.csr_array:
    """Matrix (samples, table_rows) with the weights of the corners that are held.

    The others have no entry: they must not even multiply a pixel by 0.

    Args:
        weights: (samples, 4).
        rows: (samples, 4), rows of the table; of its dtype are the indices of the matrix.
        held: (samples, 4).
        table_rows: how many the table has.
    """
    count = len(rows)
    starts = np.zeros(count + 1, rows.dtype)
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
