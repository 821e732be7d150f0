"""The device's matrix product: cuBLAS's column-major semantics, by NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.gpu.device_api.commands import Gemm, Matrix
from hostcuda.views import Memory, view

# dtype of a and b, and of c, for which cuBLAS has a product.
SUPPORTED = {
    ("float16", "float16"),
    ("float16", "float32"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
    ("float32", "float32"),
    ("float64", "float64"),
}


def multiply(gemm: Gemm, pointers: Sequence[int], memory: Memory) -> None:
    """Compute ``c = op(a) @ op(b) + beta * c`` for each matrix of the batch, in place."""
    check(gemm)
    if 0 in (gemm.m, gemm.n, gemm.batch):
        return
    sums: Any = np.float64 if gemm.dtype == "float64" else np.float32
    at_a, at_b, at_c = pointers
    c = _operand(gemm.c, at_c, gemm.m, gemm.n, gemm.batch, gemm.output_dtype, memory)
    with np.errstate(all="ignore"):  # no warnings, as on a GPU
        result: NDArray[Any] = np.zeros(c.shape, sums)
        if gemm.k > 0:
            a = _operand(gemm.a, at_a, gemm.m, gemm.k, gemm.batch, gemm.dtype, memory).astype(sums)
            b = _operand(gemm.b, at_b, gemm.k, gemm.n, gemm.batch, gemm.dtype, memory).astype(sums)
            if gemm.allow_tf32 and gemm.dtype == "float32":
                a, b = round_to_tf32(a), round_to_tf32(b)
            result = a @ b
        if gemm.beta != 0:  # otherwise c is not read: it may contain NaN
            result += sums(gemm.beta) * c.astype(sums)
        c[...] = result


def check(gemm: Gemm) -> None:
    """Raise ValueError for products that cuBLAS rejects, and for overlapping results."""
    if (gemm.dtype, gemm.output_dtype) not in SUPPORTED:
        raise ValueError(f"there is no product of {gemm.dtype} that gives {gemm.output_dtype}")
    sizes = (gemm.m, gemm.n, gemm.k, gemm.batch)
    if min(sizes) < 0:
        raise ValueError(f"m, n, k, batch must not be negative, got {sizes}")
    if gemm.c.transposed:
        raise ValueError("c must not be transposed")
    _check_ld("a", gemm.a, gemm.m, gemm.k)
    _check_ld("b", gemm.b, gemm.k, gemm.n)
    _check_ld("c", gemm.c, gemm.m, gemm.n)
    steps = sorted([(1, gemm.m), (gemm.c.ld, gemm.n), (abs(gemm.c.stride), gemm.batch)])
    farthest = 0  # the farthest element that the steps so far reach
    for step, count in steps:
        if count > 1 and step <= farthest:
            raise ValueError(
                f"the elements of c must not overlap: {gemm.c}, m, n, k, batch {sizes}"
            )
        farthest += step * max(0, count - 1)


def _check_ld(name: str, matrix: Matrix, rows: int, columns: int) -> None:
    least = max(1, columns if matrix.transposed else rows)
    if matrix.ld < least:
        raise ValueError(f"ld of {name} must be at least {least}, got {matrix.ld}")


def _operand(
    matrix: Matrix,
    pointer: int,
    rows: int,
    columns: int,
    batch: int,
    dtype: str,
    memory: Memory,
) -> NDArray[Any]:
    """op(matrix) for each of the batch, (batch, rows, columns)."""
    steps = (matrix.ld, 1) if matrix.transposed else (1, matrix.ld)
    return view(pointer, (batch, rows, columns), (matrix.stride, *steps), dtype, memory)


def round_to_tf32(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep 10 bits of the fraction, as tensor cores do."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0xFFF) + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)
