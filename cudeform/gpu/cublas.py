"""cuBLAS by its own library, for the one thing that CuPy refuses: products in a captured stream.

CuPy will not set the stream of a handle while that stream is captured. The library has no such
objection. It is the one that CuPy has loaded, so a handle of CuPy's is a handle of this one.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

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
