"""The memory of the host's CUDA device, its arrays, and its matrix product."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hostcuda import HostDevice
from hostcuda.toys import values
from numpy.testing import assert_array_equal

from cudeform.arrays import DeviceArray
from cudeform.gpu.device_api.commands import Gemm, Matrix


@pytest.mark.parametrize("flush", ["start", "end"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32"])
def test_arrays_keep_their_strides(flush: Any, dtype: str) -> None:
    device = HostDevice(flush=flush)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    base = np.arange(120).astype(kind).reshape(4, 5, 6)
    reversed_ = base[:, ::-1, ::-2]
    for array in (base, base.T, reversed_, np.broadcast_to(base[:, :1], base.shape), base[:0]):
        for skew in (0, 1, 3):
            put = device.put(array, skew=skew)
            assert put.strides == tuple(s // array.itemsize for s in array.strides)
            got = device.read(put)
            assert got.dtype == array.dtype
            assert_array_equal(got, array)


def test_gaps_between_elements_are_poison() -> None:
    device = HostDevice()
    array = device.put(values(12).reshape(3, 4)[::-1, ::2])
    whole = DeviceArray(array.pointer - 4 * 8, (11,), (1,), "float32")
    expected = np.where(np.arange(11) % 2, np.nan, values(11))
    assert_array_equal(device.read(whole), expected)
    assert device.put(values(3), skew=1).pointer % 16 == 4


def test_memory_is_counted_and_released() -> None:
    device = HostDevice(memory=1000)
    memory = device.allocate(600)
    assert memory.pointer % 16 == 0
    assert device.free_bytes() == 400
    with pytest.raises(MemoryError, match="600 bytes wanted, 400 are free"):
        device.allocate(600)
    pointer = memory.pointer
    del memory
    assert (device.free_bytes(), device.peak_bytes) == (1000, 600)
    with pytest.raises(ValueError, match="which was freed"):
        device.fill_zero(pointer, 4)
    array = device.empty((4,), "float32")
    with pytest.raises(ValueError, match="20 bytes, the first at byte 0 of a buffer of 16 bytes"):
        device.fill_zero(array.pointer, 20)


# ---- matrix products -----------------------------------------------------------------------------


def column_major(device: HostDevice, array: Any, transposed: bool = False) -> tuple[Any, Matrix]:
    """Put a batch of matrices on the device, with room between columns and between matrices."""
    stored = array if transposed else array.swapaxes(1, 2)
    batch, columns, rows = stored.shape
    wide = np.full((batch, columns + 1, rows + 2), np.nan, np.float32).astype(array.dtype)
    wide[:, :columns, :rows] = stored
    put = device.put(wide)
    stride = 0 if batch == 1 else wide[0].size
    return put, Matrix(rows + 2, stride, transposed)


@pytest.mark.parametrize(
    ("dtype", "output_dtype"),
    [
        ("float16", "float16"),
        ("float16", "float32"),
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("broadcast", [None, "a", "b"])
def test_gemm(dtype: str, output_dtype: str, beta: float, broadcast: str | None) -> None:
    m, n, k, batch = 3, 4, 5, 2
    rng = np.random.default_rng(0)
    kinds = {"bfloat16": ml_dtypes.bfloat16}
    kind, output_kind = (np.dtype(kinds.get(name, name)) for name in (dtype, output_dtype))
    sums = np.float64 if dtype == "float64" else np.float32
    for transpose_a, transpose_b in ((False, False), (False, True), (True, False), (True, True)):
        device = HostDevice()
        a = rng.standard_normal((1 if broadcast == "a" else batch, m, k)).astype(kind)
        b = rng.standard_normal((1 if broadcast == "b" else batch, k, n)).astype(kind)
        c = rng.standard_normal((batch, m, n)).astype(output_kind)
        expected = a.astype(sums) @ b.astype(sums)
        if beta:
            expected += sums(beta) * c.astype(sums)
        else:
            c[...] = np.nan  # must not be read
        array_a, matrix_a = column_major(device, a, transpose_a)
        array_b, matrix_b = column_major(device, b, transpose_b)
        array_c, matrix_c = column_major(device, c)
        gemm = Gemm(
            m=m,
            n=n,
            k=k,
            a=matrix_a,
            b=matrix_b,
            c=matrix_c,
            batch=batch,
            dtype=dtype,
            output_dtype=output_dtype,
            beta=beta,
        )
        device.gemm(gemm, [array.pointer for array in (array_a, array_b, array_c)])
        result = device.read(array_c)
        got = result[:, :n, :m].swapaxes(1, 2).astype(float)
        # Sums of NumPy's own product may differ in the last bit, which rounding can make one unit.
        unit = max(float(ml_dtypes.finfo(output_kind).eps), 1e-6 if sums is np.float32 else 1e-14)
        np.testing.assert_allclose(got, expected.astype(output_kind).astype(float), unit, unit)
        result[:, :n, :m] = np.nan
        assert np.isnan(result.astype(float)).all()  # nothing else was written
        assert device.log == [gemm]


def test_gemm_refuses_what_cublas_would_not_do_or_do_wrong() -> None:
    device = HostDevice()
    a, b, c = (device.put(np.ones(12, np.float32)).pointer for _ in range(3))
    gemm = Gemm(3, 4, 2, Matrix(3), Matrix(2), Matrix(3), 1, "float32", "float32")
    device.gemm(gemm, (a, b, c))
    for change, message in (
        ({"a": Matrix(2)}, "ld of a must be at least 3, got 2"),
        ({"a": Matrix(2, transposed=True), "b": Matrix(1)}, "ld of b must be at least 2"),
        ({"c": Matrix(2)}, "ld of c must be at least 3"),
        ({"c": Matrix(4, transposed=True)}, "c must not be transposed"),
        ({"batch": 2}, "the elements of c must not overlap"),
        ({"dtype": "float64"}, "there is no product of float64 that gives float32"),
        ({"m": -1}, "must not be negative"),
        ({"k": 5, "b": Matrix(5)}, "60 bytes, the first at byte 0 of a buffer of 48 bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            device.gemm(replace(gemm, **change), (a, b, c))
    for pointers, message in (
        ((a, b, c + 4), "48 bytes, the first at byte 4 of a buffer of 48 bytes"),
        ((a, b + 2, c), "misaligned for float32"),
    ):
        with pytest.raises(ValueError, match=message):
            device.gemm(gemm, pointers)


def test_gemm_of_nothing() -> None:
    device = HostDevice()
    c = device.put(values(6))
    gemm = Gemm(2, 3, 0, Matrix(2), Matrix(1), Matrix(2), 1, "float32", "float32")
    device.gemm(replace(gemm, n=0), (0, 0, 0))
    device.gemm(replace(gemm, beta=2.0), (0, 0, c.pointer))
    assert_array_equal(device.read(c), 2 * values(6))
    device.gemm(gemm, (0, 0, c.pointer))
    assert_array_equal(device.read(c), 0)


def test_gemm_with_tf32_rounds_its_operands() -> None:
    device = HostDevice()
    x = np.float32(1 + 2**-10 + 2**-12)
    a, b, c = device.put(x.reshape(1)), device.put(values(1)), device.empty((1,), "float32")
    pointers = (a.pointer, b.pointer, c.pointer)
    gemm = Gemm(1, 1, 1, Matrix(1), Matrix(1), Matrix(1), 1, "float32", "float32")
    device.gemm(gemm, pointers)
    assert device.read(c) == x
    device.gemm(replace(gemm, allow_tf32=True), pointers)
    assert device.read(c) == np.float32(1 + 2**-10)
