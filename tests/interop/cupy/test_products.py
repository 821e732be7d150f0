"""Arguments of cuBLAS for a product, through CuPy and, in a captured stream, directly."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.cupy_cuda import GEMM, RecordedCuda, replay_one

from cudeform.gpu.cuda import cublas
from cudeform.gpu.cuda.device import CupyDevice

ALLOW_TF32 = 3  # CUBLAS_TF32_TENSOR_OP_MATH


def test_a_product(cuda: RecordedCuda) -> None:
    cuda.stream = 99
    replay_one(CupyDevice(0, 99), GEMM)
    [(_, stream, _, handle, *what)] = [did for did in cuda.did if did[0] == "gemm"]
    assert (stream, handle) == (99, 77)
    del what[14], what[5]  # addresses of the factors
    assert what == [1, 0, 2, 3, 4, 16, 2, 5, 6, 32, 2, 7, 8, 48, 0, 9, 10, 11, 68, -1]


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_alpha_and_beta_have_the_type_of_the_sum(
    cuda: RecordedCuda, dtype: str, beta: float
) -> None:
    gemm = replace(GEMM, dtype=dtype, output_dtype=dtype, beta=beta)
    replay_one(CupyDevice(0, 0), gemm)
    what = next(did for did in cuda.did if did[0] == "gemm")[4:]
    kind = c_float if dtype == "float32" else c_double
    assert [kind.from_address(what[at]).value for at in (5, 14)] == [1.0, beta]
    assert what[-2] == (68 if dtype == "float32" else 70)


def test_tf32_is_for_float32_where_it_is_allowed(cuda: RecordedCuda) -> None:
    for dtype in ("float16", "float32"):
        for allowed in (False, True):
            replay_one(CupyDevice(0, 0), replace(GEMM, dtype=dtype, allow_tf32=allowed))
    assert [did[-2] for did in cuda.did if did[0] == "gemm"] == [68, 68, 68, 77]


def test_a_product_at_other_addresses(cuda: RecordedCuda) -> None:
    replay_one(CupyDevice(0, 0), GEMM, [1 << 20, 2 << 20, 3 << 20])
    what = next(did for did in cuda.did if did[0] == "gemm")[4:]
    assert [what[at] for at in (6, 10, 15)] == [1 << 20, 2 << 20, 3 << 20]


def test_half_precision_is_summed_in_float32(cuda: RecordedCuda) -> None:
    """So is float32. The handle is shared with other users of CuPy: its mode is restored."""
    cuda.math_mode = ALLOW_TF32
    replay_one(CupyDevice(0, 0), GEMM)
    assert next(did for did in cuda.did if did[0] == "gemm")[2] == 16
    assert cuda.math_mode == ALLOW_TF32


class Library:
    """libcublas, with the two functions that are called in a capture."""

    def __init__(self, cuda: RecordedCuda, status: int = 0) -> None:
        def set_stream(*what: Any) -> int:
            cuda.did.append(("set", *what))
            return 0

        def multiply(*what: Any) -> int:
            cuda.did.append(("captured", cuda.math_mode, *what))
            return status

        self.cublasSetStream_v2, self.cublasGemmStridedBatchedEx = set_stream, multiply


def test_cublas_is_called_directly_in_a_capture(
    cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay_one(CupyDevice(0, 99), GEMM)
    plain = next(did for did in cuda.did if did[0] == "gemm")
    versions = []
    library = Library(cuda)
    monkeypatch.setattr(cublas, "_library", lambda major: versions.append(major) or library)
    cuda.capturing = True
    replay_one(CupyDevice(0, 99), GEMM)
    assert versions == [13]
    assert ("set", 77, 99) in cuda.did
    [(_, mode, *what)] = [did for did in cuda.did if did[0] == "captured"]
    assert (mode, tuple(what)) == (16, plain[3:])
    assert len(what) == len(cublas.MULTIPLY)
    assert cuda.math_mode == 5


def test_an_error_of_cublas_is_raised(cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublas, "_library", lambda _: Library(cuda, status=7))
    cuda.capturing = True
    with pytest.raises(RuntimeError, match="cublasGemmStridedBatchedEx failed with status 7"):
        replay_one(CupyDevice(0, 99), GEMM)
    assert cuda.math_mode == 5


def test_addresses_are_passed_with_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument has its type in C: addresses and strides have 64 bits."""
    got: list[Any] = []
    kinds = cublas.MULTIPLY
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)
    stream = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    library = SimpleNamespace(
        cublasGemmStridedBatchedEx=prototype(lambda *what: got.extend(what) or 0),
        cublasSetStream_v2=stream(lambda *what: 0),
    )
    monkeypatch.setattr(cublas, "_library", lambda _: library)
    wide, long = 2**45 + 16, 2**33
    gemm = replace(GEMM, a=replace(GEMM.a, stride=long), c=replace(GEMM.c, stride=long))
    head, of_a, of_b, of_c = cublas.around_pointers(gemm)
    arguments = (*head, wide, *of_a, wide + 16, *of_b, wide + 32, *of_c)
    cublas.multiply(2**46, 130000, 2**46, arguments)
    assert tuple(got) == (2**46, *arguments)


def test_the_library_that_cupy_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def load(name: str) -> Any:
        names.append(name)
        functions = ("cublasSetStream_v2", "cublasGemmStridedBatchedEx")
        return SimpleNamespace(**{function: SimpleNamespace() for function in functions})

    monkeypatch.setattr(cublas.ctypes, "CDLL", load)
    monkeypatch.setattr(cublas.sys, "platform", "linux")
    cublas._library.__wrapped__(12)
    monkeypatch.setattr(cublas.sys, "platform", "win32")
    cublas._library.__wrapped__(13)
    assert names == ["libcublas.so.12", "cublas64_13.dll"]


def test_cublas_uses_the_stream_of_the_device(cuda: RecordedCuda) -> None:
    cuda.stream = 3
    replay_one(CupyDevice(0, 99), GEMM)
    assert next(did for did in cuda.did if did[0] == "gemm")[1] == 99
    assert cuda.stream == 3
