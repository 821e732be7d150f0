"""A product of matrices as cuBLAS wants it, and cuBLAS itself for products in a captured stream.

CuPy will not set the stream of a handle while that stream is captured. The library has no such
objection. It is the one that CuPy has loaded, so a handle of CuPy's is a handle of this one.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.gpu.protocol import Gemm

CUDA_TYPES = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
OP_N, OP_T = 0, 1
GEMM_DEFAULT = -1

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
MATRIX: tuple[Any, ...] = (POINTER, INT, INT, LONG)  # address, type, leading dimension, stride

# cublasGemmStridedBatchedEx: handle, operations, sizes; a and b between their factors; c; the rest.
MULTIPLY: tuple[Any, ...] = (
    POINTER,
    *[INT] * 5,
    POINTER,
    *MATRIX,
    *MATRIX,
    POINTER,
    *MATRIX,
    *[INT] * 3,
)


def arguments(gemm: Gemm, pointers: Sequence[int]) -> tuple[int, ...]:
    """Those of cublasGemmStridedBatchedEx, behind the handle."""
    double = gemm.dtype == "float64"
    compute = COMPUTE_64F if double else COMPUTE_32F
    if gemm.allow_tf32 and gemm.dtype == "float32":
        compute = COMPUTE_32F_FAST_TF32
    a, b, c = gemm.a, gemm.b, gemm.c
    kind, output_kind = CUDA_TYPES[gemm.dtype], CUDA_TYPES[gemm.output_dtype]
    return (
        OP_T if a.transposed else OP_N,
        OP_T if b.transposed else OP_N,
        *(gemm.m, gemm.n, gemm.k),
        _scalar(1.0, double),
        *(pointers[0], kind, a.leading, a.stride),
        *(pointers[1], kind, b.leading, b.stride),
        _scalar(gemm.beta, double),
        *(pointers[2], output_kind, c.leading, c.stride),
        gemm.batch,
        compute,
        GEMM_DEFAULT,
    )


def _scalar(value: float, double: bool) -> int:
    """Address of a factor in the host's memory."""
    return _factor(value, double)[1]


@cache
def _factor(value: float, double: bool) -> tuple[NDArray[Any], int]:
    """A factor and its address; what is cached stays where it is."""
    array = np.array(value, np.float64 if double else np.float32)
    return array, array.ctypes.data


def multiply(handle: int, version: int, stream: int, arguments: Sequence[int]) -> None:
    """Queue ``cublasGemmStridedBatchedEx(handle, *arguments)`` on a stream.

    Args:
        handle: of cuBLAS.
        version: of cuBLAS, such as 130100 for 13.1.
        stream: address.
        arguments: all but the handle.

    Raises:
        OSError: the library is not found.
        RuntimeError: it refuses the call.
    """
    library = _library(version // 10000)
    _check("cublasSetStream", library.cublasSetStream_v2(handle, stream))
    _check("cublasGemmStridedBatchedEx", library.cublasGemmStridedBatchedEx(handle, *arguments))


@cache
def _library(major: int) -> Any:
    name = f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}"
    library = ctypes.CDLL(name)
    library.cublasSetStream_v2.argtypes = (POINTER, POINTER)
    library.cublasGemmStridedBatchedEx.argtypes = MULTIPLY
    return library


def _check(function: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{function} failed with status {status}")
