"""Matrix products by cuBLAS, called through CuPy, or through ctypes while the stream is captured.

CuPy refuses to set the stream of a handle during capture, although cuBLAS allows it. This module
opens the library that CuPy has already loaded, so CuPy's handles are valid in it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.gpu.device_api.commands import Address, Gemm

CUDA_TYPES = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
OP_N, OP_T = 0, 1
GEMM_DEFAULT = -1
NO_REDUCED_PRECISION = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
MATRIX: tuple[Any, ...] = (POINTER, INT, INT, LONG)  # pointer, type, leading dimension, stride

# cublasGemmStridedBatchedEx: handle, operations and sizes, alpha, a, b, beta, c, and the rest.
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


class FullPrecisionReductions:
    """Context manager that forbids cuBLAS to reduce partial sums in half precision.

    By default, a split-K product with a half-precision result adds its partial sums in that
    precision. TF32 is also off, unless a product requests it. All users of CuPy in a thread share
    one handle, so the math mode is restored at the end.
    """

    def __init__(self, cupy: Any) -> None:
        """Take the handle of the current device."""
        self._cublas, self._handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()

    def __enter__(self) -> None:
        """Set the math mode."""
        self._mode: int = self._cublas.getMathMode(self._handle)
        self._cublas.setMathMode(self._handle, NO_REDUCED_PRECISION)

    def __exit__(self, *error: object) -> None:
        """Restore the math mode."""
        self._cublas.setMathMode(self._handle, self._mode)


def prepare(
    cupy: Any, gemm: Gemm, addresses: Sequence[Address]
) -> Callable[[int, Sequence[int]], None]:
    """Return a function that queues a product on a stream, which must be CuPy's current one."""
    cublas, handle_of = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle
    (a, a_from), (b, b_from), (c, c_from) = addresses
    head, of_a, of_b, of_c = around_pointers(gemm)

    def queue(stream: int, bases: Sequence[int]) -> None:
        handle = handle_of()
        arguments = (
            *head,
            bases[a] + a_from,
            *of_a,
            bases[b] + b_from,
            *of_b,
            bases[c] + c_from,
            *of_c,
        )
        try:
            cublas.gemmStridedBatchedEx(handle, *arguments)
        except NotImplementedError:  # the stream is being captured
            multiply(handle, cublas.getVersion(handle), stream, arguments)

    return queue


def around_pointers(gemm: Gemm) -> tuple[tuple[int, ...], ...]:
    """Arguments of cublasGemmStridedBatchedEx before, between and after the three pointers."""
    double = gemm.dtype == "float64"
    compute = COMPUTE_64F if double else COMPUTE_32F
    if gemm.allow_tf32 and gemm.dtype == "float32":
        compute = COMPUTE_32F_FAST_TF32
    a, b, c = gemm.a, gemm.b, gemm.c
    dtype, output_dtype = CUDA_TYPES[gemm.dtype], CUDA_TYPES[gemm.output_dtype]
    operations = OP_T if a.transposed else OP_N, OP_T if b.transposed else OP_N
    return (
        (*operations, gemm.m, gemm.n, gemm.k, _scalar(1.0, double)),
        (dtype, a.ld, a.stride),
        (dtype, b.ld, b.stride, _scalar(gemm.beta, double)),
        (output_dtype, c.ld, c.stride, gemm.batch, compute, GEMM_DEFAULT),
    )


def _scalar(value: float, double: bool) -> int:
    """Address of alpha or beta in the host's memory."""
    return _scalar_array(value, double)[1]


@cache
def _scalar_array(value: float, double: bool) -> tuple[NDArray[Any], int]:
    """An array and its address; the cache keeps the array alive."""
    array = np.array(value, np.float64 if double else np.float32)
    return array, array.ctypes.data


def multiply(handle: int, version: int, stream: int, arguments: Sequence[int]) -> None:
    """Queue ``cublasGemmStridedBatchedEx(handle, *arguments)`` on a stream.

    Args:
        handle: the cuBLAS handle.
        version: the version of cuBLAS, such as 130100 for 13.1.
        stream: address of the stream.
        arguments: all arguments after the handle.

    Raises:
        OSError: the library is not found.
        RuntimeError: cuBLAS reports an error.
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
