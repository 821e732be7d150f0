"""The loops that turn matrices: channels last, taps first, output channels first.

    source[source_first + row * source_step + col] -> target[target_first + col * target_step + row]

Squares of VECTOR rows and columns at a time go through registers.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.jit import loop
from cudeform.cpu.loops.vectors import VECTOR, load_rows, pointer_to, store_rows, transposed


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
            if rows - row >= VECTOR and cols - col >= VECTOR:
                square = load_rows(source, at, source_step)
                store_rows(target, to, target_step, transposed(square))
                continue
            for r in range(min(VECTOR, rows - row)):
                for c in range(min(VECTOR, cols - col)):
                    target[to + c * target_step + r] = source[at + r * source_step + c]
