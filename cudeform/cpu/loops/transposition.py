"""The loops that turn matrices: channels last, taps first, output channels first.

    source[source_first + row * source_step + col] -> target[target_first + col * target_step + row]

Squares of VECTOR rows and columns at a time go through registers.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    pointer_to,
    store_vector,
    transposed,
)


@inlined
def load_row(source: Any, first: Any, step: Any, row: Any, rows: Any, cols: Any) -> Any:
    """A row of a square; zeros beyond the last one."""
    return load_vector(source, first + row * step, cols if row < rows else 0)


@inlined
def load_transposed(source: Any, first: Any, step: Any, rows: Any, cols: Any) -> Any:
    """The columns of a square of ``rows`` and ``cols``, at most VECTOR of each."""
    return transposed(
        (
            load_row(source, first, step, 0, rows, cols),
            load_row(source, first, step, 1, rows, cols),
            load_row(source, first, step, 2, rows, cols),
            load_row(source, first, step, 3, rows, cols),
            load_row(source, first, step, 4, rows, cols),
            load_row(source, first, step, 5, rows, cols),
            load_row(source, first, step, 6, rows, cols),
            load_row(source, first, step, 7, rows, cols),
        )
    )


@inlined
def store_row(row: Any, target: Any, first: Any, step: Any, col: Any, rows: Any, cols: Any) -> None:
    """A column of a square as a row of the target; nothing beyond the last one."""
    if col < cols:
        store_vector(target, first + col * step, rows, row)


@inlined
def transpose_square(
    source: Any,
    source_first: Any,
    source_step: Any,
    target: Any,
    first: Any,
    step: Any,
    rows: Any,
    cols: Any,
) -> None:
    """Turn a square of ``rows`` and ``cols``, at most VECTOR of each."""
    a, b, c, d, e, f, g, h = load_transposed(source, source_first, source_step, rows, cols)
    store_row(a, target, first, step, 0, rows, cols)
    store_row(b, target, first, step, 1, rows, cols)
    store_row(c, target, first, step, 2, rows, cols)
    store_row(d, target, first, step, 3, rows, cols)
    store_row(e, target, first, step, 4, rows, cols)
    store_row(f, target, first, step, 5, rows, cols)
    store_row(g, target, first, step, 6, rows, cols)
    store_row(h, target, first, step, 7, rows, cols)


@loop
def transpose(
    source: Any,
    source_first: Any,
    source_step: Any,
    target: Any,
    target_first: Any,
    target_step: Any,
    rows: Any,
    cols: Any,
) -> None:
    """Turn a matrix of ``rows`` and ``cols``; arrays are flat."""
    source, target = pointer_to(source), pointer_to(target)
    for row in range(0, rows, VECTOR):
        for col in range(0, cols, VECTOR):
            at = source_first + row * source_step + col
            to = target_first + col * target_step + row
            few_rows, few_cols = min(VECTOR, rows - row), min(VECTOR, cols - col)
            if few_rows == VECTOR and few_cols == VECTOR:
                transpose_square(source, at, source_step, target, to, target_step, VECTOR, VECTOR)
            else:
                transpose_square(
                    source, at, source_step, target, to, target_step, few_rows, few_cols
                )
