"""The loop that transposes matrices, for channels-last images and outputs with channels first.

    source[source_first + row * source_step + col] -> target[target_first + col * target_step + row]

It transposes squares of VECTOR rows and columns in registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from cudeform.cpu.loops.jit import instruction, loop
from cudeform.cpu.loops.vectors import INDEX, VECTOR, VectorType, pointer_to, vector_address


@instruction
def load_rows(typing: Any, pointer: Any, first: Any, step: Any) -> Any:
    """Load VECTOR vectors at a distance of ``step`` elements."""
    kind = VectorType(pointer.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, step = arguments
        vector = context.get_data_type(kind)
        rows = []
        for _ in range(VECTOR):
            address = vector_address(builder, pointer, index, vector)
            rows.append(builder.load(address, align=kind.dtype.bitwidth // 8))
            index = builder.add(index, step)
        return context.make_tuple(builder, signature.return_type, rows)

    return types.UniTuple(kind, VECTOR)(pointer, types.int64, types.int64), generate


@instruction
def store_rows(typing: Any, pointer: Any, first: Any, step: Any, rows: Any) -> Any:
    """Store VECTOR vectors at a distance of ``step`` elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, step, packed = arguments
        for row in cgutils.unpack_tuple(builder, packed):
            address = vector_address(builder, pointer, index, row.type)
            builder.store(row, address, align=rows.dtype.dtype.bitwidth // 8)
            index = builder.add(index, step)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64, rows), generate


@instruction
def transposed(typing: Any, rows: Any) -> Any:
    """Transpose VECTOR vectors: lane ``k`` of all of them becomes vector ``k``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = cgutils.unpack_tuple(builder, arguments[0])
        # Exchange single lanes between adjacent vectors, then pairs of lanes between vectors at
        # distance 2, and so on.
        distance = 1
        while distance < VECTOR:
            low = [k ^ distance | VECTOR if k & distance else k for k in range(VECTOR)]
            high = [k | VECTOR if k & distance else k ^ distance for k in range(VECTOR)]
            exchanged = list(vectors)
            for first in range(VECTOR):
                if not first & distance:
                    second = first | distance
                    pair = vectors[first], vectors[second]
                    for row, lanes in ((first, low), (second, high)):
                        order = ir.Constant(ir.VectorType(INDEX, VECTOR), lanes)
                        exchanged[row] = builder.shuffle_vector(*pair, order)
            vectors = exchanged
            distance *= 2
        return context.make_tuple(builder, signature.return_type, vectors)

    return rows(rows), generate


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
    """Transpose a matrix of ``rows`` and ``cols``; the arrays are flat."""
    source, target = pointer_to(source), pointer_to(target)
    for row in range(0, rows, VECTOR):
        for col in range(0, cols, VECTOR):
            read = source_first + row * source_step + col
            write = target_first + col * target_step + row
            if rows - row >= VECTOR and cols - col >= VECTOR:
                square = load_rows(source, read, source_step)
                store_rows(target, write, target_step, transposed(square))
                continue
            for r in range(min(VECTOR, rows - row)):
                for c in range(min(VECTOR, cols - col)):
                    target[write + c * target_step + r] = source[read + r * source_step + c]
