"""The host's CUDA device does what a GPU does. Mistakes are in test_hostcuda_faults.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hostcuda import HostDevice, Launched, compiler_path
from hostcuda.toys import DOUBLE, REVERSE, SUM, run, toy, values
from numpy.testing import assert_array_equal

from cudeform.gpu.protocol import DeviceArray, Gemm, Matrix

pytestmark = pytest.mark.skipif(compiler_path() is None, reason="needs a C++ compiler")

TESTS = Path(__file__).parent
SEEDS = range(4)

# ---- what is right -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"flags": ("-DHOSTCUDA_UCONTEXT",)}, {"races": True}],
    ids=["own switch", "ucontext", "races"],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_threads_blocks_barriers_and_warps(seed: int, options: Any) -> None:
    device = HostDevice(seed=seed, **options)
    data = values(256)
    a, b, c, d = device.put(data), *(device.empty((256,), "float32") for _ in range(3))
    run(device, toy(DOUBLE), a, b, n=256, blocks=5, threads=60)
    run(device, toy(REVERSE), a, c, blocks=4, shared_bytes=256)
    run(device, toy(SUM), a, d, blocks=4)
    assert_array_equal(device.read(b), 2 * data)
    assert_array_equal(device.read(c), data.reshape(4, 64)[:, ::-1].ravel())
    assert_array_equal(device.read(d)[:8], data.reshape(8, 32).sum(1))


def test_the_log_tells_launches_and_bytes() -> None:
    device = HostDevice()
    kernel = toy(
        "store16(b + 4 * i, load16(a + 4 * i));\n"
        "add_global(b + 4 * i, 1.0f); add_global4(b + 4 * i, 0.0f, 1.0f, 2.0f, 3.0f);"
    )
    a, b = device.put(values(32)), device.empty((32,), "float32")
    run(device, kernel, a, b, threads=8, shared_bytes=48)
    assert device.log == [Launched("toy", 1, 8, 48, loaded=128, stored=128, added=8 * 20)]
    expected = values(32).reshape(8, 4) + [1, 1, 2, 3]
    assert_array_equal(device.read(b), expected.ravel())


def test_a_device_that_watches_races_counts_every_byte() -> None:
    device = HostDevice(races=True)
    a, b = device.put(values(64)), device.empty((64,), "float32")
    run(device, toy(REVERSE), a, b, shared_bytes=256)
    run(device, toy("atomicAdd(b, 1.0f); if (i < 8) store16(b + 4 * i + 4, load16(a));"), a, b)
    assert device.log == [
        Launched("toy", 1, 64, 256, loaded=256, stored=256, added=0),
        Launched("toy", 1, 64, 0, loaded=128, stored=128, added=256),
    ]


SHUFFLES = """
    const int lane = i % warpSize;
    b[i] = g.what == 0 ? __shfl_sync(~0u, a[i], lane * 7 + 3, g.n)
         : g.what == 1 ? __shfl_up_sync(~0u, a[i], 3, g.n)
         : g.what == 2 ? __shfl_down_sync(~0u, a[i], 3, g.n)
         : __shfl_xor_sync(~0u, a[i], 5, g.n);
"""


@pytest.mark.parametrize("what", range(4), ids=["index", "up", "down", "xor"])
@pytest.mark.parametrize("kind", ["int", "unsigned", "float", "double", "long long"])
def test_shuffles(kind: str, what: int) -> None:
    names = {"unsigned": "uint32", "int": "int32", "long long": "int64"}
    dtype = names.get(kind, kind if kind == "double" else "float32").replace("double", "float64")
    kernel = toy(SHUFFLES, f"const {kind}* a, {kind}* b")
    lane = np.arange(32)
    for width in (32, 8):
        device = HostDevice(seed=width)
        a, b = device.put(values(64, dtype)), device.empty((64,), dtype)
        run(device, kernel, a, b, n=width, what=what)
        first = lane // width * width
        source = [
            first + (lane * 7 + 3) % width,
            np.where(lane - 3 < first, lane, lane - 3),
            np.where(lane + 3 >= first + width, lane, lane + 3),
            np.where(lane ^ 5 >= first + width, lane, lane ^ 5),
        ][what]
        assert_array_equal(device.read(b), values(64, dtype).reshape(2, 32)[:, source].ravel())


@pytest.mark.parametrize("seed", SEEDS)
def test_votes_and_lanes_that_are_not_there(seed: int) -> None:
    kernel = toy(
        """
        if (i == 40) return;
        const unsigned half = threadIdx.x & 16 ? 0xFFFF0000 : 0x0000FFFF;
        if (threadIdx.x & 16) __syncwarp(half);  // the other half does not wait here
        b[0 * 48 + i] = static_cast<int>(__ballot_sync(half, a[i] > 20));
        b[1 * 48 + i] = __any_sync(half, i == 3);
        b[2 * 48 + i] = __all_sync(half, i != 3);
        b[3 * 48 + i] = __shfl_sync(~0u, i, 8);
        """,
        "const float* a, int* b",
    )
    device = HostDevice(seed=seed)
    a, b = device.put(values(48)), device.empty((4, 48), "int32")
    run(device, kernel, a, b, threads=48)
    ballot, any_, all_, shuffled = np.delete(device.read(b), 40, axis=1)
    lane = np.delete(np.arange(48), 40)
    assert_array_equal(ballot[:16], 0)
    assert_array_equal(ballot[16:32].view(np.uint32), 0xFFF00000)
    assert_array_equal(ballot[32:], 0xFEFF)
    assert_array_equal(any_, lane < 16)
    assert_array_equal(all_, lane >= 16)
    assert_array_equal(shuffled, np.where(lane < 32, 8, -1))  # poison: thread 40 has left


def test_the_seed_changes_the_order_of_blocks_and_threads() -> None:
    kernel = toy("b[atomicAdd(count, 1)] = i;", "int* count, int* b")
    orders = set()
    for seed in SEEDS:
        device = HostDevice(seed=seed)
        count, b = device.empty((1,), "int32"), device.empty((64,), "int32")
        device.fill_zero(count.pointer, 4)
        run(device, kernel, count, b, blocks=8, threads=8)
        order = device.read(b)
        assert_array_equal(np.sort(order), np.arange(64))
        blocks = order.reshape(8, 8) // 8
        assert_array_equal(blocks, blocks[:, :1].repeat(8, 1))  # one block after the other
        orders.add((tuple(blocks[:, 0]), tuple(order[:8] % 8)))
    assert len({blocks for blocks, _ in orders}) == len({threads for _, threads in orders}) == 4


def test_atomics() -> None:
    kernel = toy(
        """
        atomicAdd(&f[0], 0.5f); atomicAdd(&d[0], 0.25);
        atomicAdd(&u[0], 3); atomicAdd(&l[0], 1ull << 40);
        atomicAdd(&n[0], 0x7fffffff); atomicMax(&n[1], i); atomicMin(&n[2], -i);
        atomicOr(&u[1], 1u << i % 32); atomicExch(&n[3], 7); atomicCAS(&n[4], 0, i + 1);
        """,
        "float* f, double* d, unsigned* u, unsigned long long* l, int* n",
    )
    device = HostDevice()
    f, d, n = (device.put(np.zeros(5, dtype)) for dtype in ("float32", "float64", "int32"))
    u, long = device.put(np.zeros(2, "uint32")), device.put(np.zeros(1, "int64"))
    run(device, kernel, f, d, u, long, n)
    assert device.read(f)[0] == 32
    assert device.read(d)[0] == 16
    assert_array_equal(device.read(u), np.array([192, 0xFFFFFFFF], np.uint32))
    assert device.read(long)[0] == 64 << 40
    wrapped, largest, least, exchanged, swapped = device.read(n)
    assert (wrapped, largest, least, exchanged) == (-64, 63, -63, 7)
    assert 1 <= swapped <= 64


# ---- numbers -------------------------------------------------------------------------------------

CONVERSIONS = {"float16": ("half_t", np.float16), "bfloat16": ("bfloat16_t", ml_dtypes.bfloat16)}


@pytest.mark.parametrize("dtype", CONVERSIONS)
def test_conversions_are_exact(dtype: str) -> None:
    storage, kind = CONVERSIONS[dtype]
    device = HostDevice()
    narrow = np.arange(2**16, dtype=np.uint16).view(kind)
    a, b = device.put(narrow), device.empty((2**16,), "float32")
    widen = toy("b[i] = to_acc(a[i]);", f"const {storage}* a, float* b")
    run(device, widen, a, b, blocks=256, threads=256)
    wide = device.read(b)
    finite = ~np.isnan(wide)
    with np.errstate(invalid="ignore"):  # some NaNs signal
        expected = narrow.astype(np.float32)
        assert_array_equal(np.isnan(wide), np.isnan(narrow))
    assert_array_equal(wide[finite].view(np.uint32), expected[finite].view(np.uint32))

    # Each representable number, what lies between two, the floats beside both, and any bits.
    ordered = np.sort(wide[np.isfinite(wide)])
    with np.errstate(all="ignore"):
        between = (ordered[1:].astype(float) + ordered[:-1]) / 2
        exact = np.concatenate([wide, between.astype(np.float32)])
        beside = [np.nextafter(exact, np.float32(side * np.inf)) for side in (-1, 1)]
    bits = np.random.default_rng(0).integers(0, 2**32, 2**18, np.uint32).view(np.float32)
    floats = np.concatenate([exact, *beside, bits])
    a, b = device.put(floats), device.empty(floats.shape, dtype)
    round_ = toy("if (i < g.n) from_acc(a[i], b + i);", f"const float* a, {storage}* b")
    run(device, round_, a, b, n=floats.size, blocks=-(-floats.size // 256), threads=256)
    rounded = device.read(b)
    with np.errstate(all="ignore"):
        expected = floats.astype(kind)
    nan = np.isnan(floats)
    assert_array_equal(rounded[~nan].view(np.uint16), expected[~nan].view(np.uint16))
    assert_array_equal(rounded[nan].view(np.uint16), 0x7FFF)


def test_a_fused_multiply_add_is_where_the_text_has_one() -> None:
    kernel = toy("b[0] = a[0] * a[0] - a[1]; b[1] = fmaf(a[0], a[0], -a[1]);")
    device = HostDevice()
    x = np.float32(1 + 2**-12)
    a, b = device.put(np.array([x, x * x])), device.empty((2,), "float32")
    run(device, kernel, a, b, threads=1)
    assert_array_equal(device.read(b), np.array([0, 2**-24], np.float32))


# ---- memory and arrays ---------------------------------------------------------------------------


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
    return put, Matrix(put.pointer, rows + 2, stride, transposed)


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
        held, matrix_c = column_major(device, c)
        gemm = Gemm(
            m=m,
            n=n,
            k=k,
            a=column_major(device, a, transpose_a)[1],
            b=column_major(device, b, transpose_b)[1],
            c=matrix_c,
            batch=batch,
            dtype=dtype,
            output_dtype=output_dtype,
            beta=beta,
        )
        device.gemm(gemm)
        result = device.read(held)
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
    gemm = Gemm(3, 4, 2, Matrix(a, 3), Matrix(b, 2), Matrix(c, 3), 1, "float32", "float32")
    device.gemm(gemm)
    for change, message in (
        ({"a": Matrix(a, 2)}, "leading of a must be at least 3, got 2"),
        (
            {"a": Matrix(a, 2, transposed=True), "b": Matrix(b, 1)},
            "leading of b must be at least 2",
        ),
        ({"c": Matrix(c, 2)}, "leading of c must be at least 3"),
        ({"c": Matrix(c, 4, transposed=True)}, "c must not be transposed"),
        ({"batch": 2}, "the elements of c must not overlap"),
        ({"dtype": "float64"}, "there is no product of float64 that gives float32"),
        ({"m": -1}, "must not be negative"),
        ({"k": 5, "b": Matrix(b, 5)}, "60 bytes, the first at byte 0 of a buffer of 48 bytes"),
        ({"c": Matrix(c + 4, 3)}, "48 bytes, the first at byte 4 of a buffer of 48 bytes"),
        ({"b": Matrix(b + 2, 2)}, "misaligned for float32"),
    ):
        with pytest.raises(ValueError, match=message):
            device.gemm(replace(gemm, **change))


def test_gemm_of_nothing() -> None:
    device = HostDevice()
    c = device.put(values(6))
    gemm = Gemm(2, 3, 0, Matrix(0, 2), Matrix(0, 1), Matrix(c.pointer, 2), 1, "float32", "float32")
    device.gemm(replace(gemm, n=0, c=Matrix(0, 2)))
    device.gemm(replace(gemm, beta=2.0))
    assert_array_equal(device.read(c), 2 * values(6))
    device.gemm(gemm)
    assert_array_equal(device.read(c), 0)


def test_gemm_with_tf32_rounds_its_operands() -> None:
    device = HostDevice()
    x = np.float32(1 + 2**-10 + 2**-12)
    a, b, c = device.put(x.reshape(1)), device.put(values(1)), device.empty((1,), "float32")
    matrices = {"a": Matrix(a.pointer, 1), "b": Matrix(b.pointer, 1), "c": Matrix(c.pointer, 1)}
    gemm = Gemm(m=1, n=1, k=1, **matrices, batch=1, dtype="float32", output_dtype="float32")
    device.gemm(gemm)
    assert device.read(c) == x
    device.gemm(replace(gemm, allow_tf32=True))
    assert device.read(c) == np.float32(1 + 2**-10)


# ---- the compiler and the twin -------------------------------------------------------------------


def test_processes_that_compile_the_same_text_share_the_result(tmp_path: Path) -> None:
    script = (
        "from hostcuda import compiled\nfrom hostcuda.toys import *\nprint(compiled(toy(DOUBLE)))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", script]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)
    ]
    printed = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(printed) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [Path(printed.pop().decode().strip())]


def test_the_part_of_a_text_that_is_ptx_is_left_out() -> None:
    ptx = (
        '#line 1 "intrinsics.cuh"\nasm("cvt.f32.f16");\n#line 1 "types"\ntypedef float scalar_t;\n'
    )
    kernel = toy("b[i] = to_acc(static_cast<scalar_t>(a[i]));", helpers=ptx)
    device = HostDevice()
    a, b = device.put(values(64)), device.empty((64,), "float32")
    run(device, kernel, a, b)
    assert_array_equal(device.read(b), values(64))


def test_the_twin_has_the_intrinsics_of_the_gpu() -> None:
    def signatures(path: Path) -> set[str]:
        text = re.sub(r",\s*hostcuda::Where at = hostcuda::here\(\)", "", path.read_text())
        found = re.findall(r"^(?:__device__ )?inline ([\w *]+?\([^)]*\))", text, re.MULTILINE)
        return {re.sub(r"\w+(?=[,)])", "", signature) for signature in found}

    gpu = signatures(TESTS.parent / "kernels" / "intrinsics.cuh")
    assert len(gpu) > 10
    assert gpu <= signatures(TESTS / "hostcuda" / "intrinsics.h")
