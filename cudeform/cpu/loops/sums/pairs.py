"""Pairs (x, y) that alternate in memory, as a vector of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from cudeform.cpu.loops.jit import inlined, instruction
from cudeform.cpu.loops.vectors import INDEX, VECTOR, load_vector, store_vector


def _lanes(chosen: list[int]) -> Callable[..., Any]:
    """An instruction of two vectors: a vector of the chosen lanes, numbered through both."""

    def choose(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            lanes = ir.Constant(ir.VectorType(INDEX, VECTOR), chosen)
            return builder.shuffle_vector(*arguments, lanes)

        return a(a, a), generate

    return instruction(choose)


_ALTERNATING = [lane for x in range(VECTOR) for lane in (x, VECTOR + x)]

even_lanes, odd_lanes = _lanes([*range(0, 2 * VECTOR, 2)]), _lanes([*range(1, 2 * VECTOR, 2)])
first_pairs, last_pairs = _lanes(_ALTERNATING[:VECTOR]), _lanes(_ALTERNATING[VECTOR:])


@inlined
def load_pairs(pointer: Any, index: Any, count: Any) -> Any:
    """Load ``count`` pairs from ``index`` on; the other lanes are 0."""
    first = load_vector(pointer, index, min(VECTOR, 2 * count))
    second = load_vector(pointer, index + VECTOR, max(0, 2 * count - VECTOR))
    return even_lanes(first, second), odd_lanes(first, second)


@inlined
def store_pairs(pointer: Any, index: Any, count: Any, x: Any, y: Any) -> None:
    """Store the first ``count`` pairs from ``index`` on."""
    store_vector(pointer, index, min(VECTOR, 2 * count), first_pairs(x, y))
    store_vector(pointer, index + VECTOR, max(0, 2 * count - VECTOR), last_pairs(x, y))
