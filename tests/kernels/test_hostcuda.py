"""The host's CUDA device runs kernels as a GPU does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from hostcuda.toys import DOUBLE, REVERSE, SUM, run, toy, values
from numpy.testing import assert_array_equal

pytestmark = needs_compiler

TESTS = Path(__file__).resolve().parents[1]
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
    assert device.log == [
        Launched("toy", 1, 8, 48, loaded=128, stored=128, added=8 * 20, in_shared=0)
    ]
    expected = values(32).reshape(8, 4) + [1, 1, 2, 3]
    assert_array_equal(device.read(b), expected.ravel())


def test_a_device_that_watches_races_counts_every_byte() -> None:
    device = HostDevice(races=True)
    a, b = device.put(values(64)), device.empty((64,), "float32")
    run(device, toy(REVERSE), a, b, shared_bytes=256)
    run(device, toy("atomicAdd(b, 1.0f); if (i < 8) store16(b + 4 * i + 4, load16(a));"), a, b)
    assert device.log == [
        Launched("toy", 1, 64, 256, loaded=256, stored=256, added=0, in_shared=512),
        Launched("toy", 1, 64, 0, loaded=128, stored=128, added=256, in_shared=0),
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
    for width in (32, 8, 4):
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


def test_a_thread_that_leaves_lets_its_warp_go_on() -> None:
    kernel = toy("if (i == 0) return; __syncwarp(); b[i] = a[i];")
    for seed in range(8):  # in some, it is the last to start
        device = HostDevice(seed=seed)
        a, b = device.put(values(2)), device.empty((2,), "float32")
        run(device, kernel, a, b, threads=2)
        assert_array_equal(device.read(b), [np.nan, 2])


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
        neighbours = [np.nextafter(exact, np.float32(side * np.inf)) for side in (-1, 1)]
    bits = np.random.default_rng(0).integers(0, 2**32, 2**18, np.uint32).view(np.float32)
    floats = np.concatenate([exact, *neighbours, bits])
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


def test_built_in_functions_of_numbers() -> None:
    kernel = toy(
        """
        const float nan = a[0], big = 1e30f;
        int* to = b;
        *to++ = min(nan, 3.0f) == 3 && max(3.0f, nan) == 3 && isnan(fmaf(nan, 1, 1));
        *to++ = min(-1, 2); *to++ = max(2u, 3u); *to++ = static_cast<int>(max(-1ll, 4ll));
        *to++ = __float2int_rd(-1.5f); *to++ = __float2int_ru(-1.5f);
        *to++ = __float2int_rn(2.5f); *to++ = __float2int_rz(-1.5f);
        *to++ = __float2int_rz(nan); *to++ = __float2int_rd(big); *to++ = __float2int_rd(-big);
        *to++ = __float_as_int(1.0f); *to++ = __int_as_float(0x3f800000) == 1;
        *to++ = __popc(0xF0u); *to++ = __popcll(~0ull); *to++ = __ffs(0x10); *to++ = __ffs(0);
        *to++ = __clz(1); *to++ = __clz(0); *to++ = __clzll(1);
        *to++ = __mulhi(-1, 1); *to++ = __umulhi(1u << 31, 6u);
        """,
        "const float* a, int* b",
    )
    expected = [1, -1, 3, 4, -2, -1, 2, -1, 0, 2**31 - 1, -(2**31), 0x3F800000, 1]
    expected += [4, 64, 5, 0, 31, 32, 63, -1, 3]
    device = HostDevice()
    a, b = device.put(np.float32([np.nan])), device.empty((len(expected),), "int32")
    run(device, kernel, a, b, threads=1)
    assert_array_equal(device.read(b), expected)


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
    assert list(tmp_path.rglob("*.so")) == [Path(printed.pop().decode().strip())]
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_part_of_a_text_that_is_ptx_is_left_out() -> None:
    ptx = (
        '#line 1 "common/ptx.cuh"\nasm("cvt.f32.f16");\n#line 1 "types"\ntypedef float scalar_t;\n'
    )

    kernel = toy("b[i] = to_acc(static_cast<scalar_t>(a[i]));", helpers=ptx)
    device = HostDevice()
    a, b = device.put(values(64)), device.empty((64,), "float32")
    run(device, kernel, a, b)
    assert_array_equal(device.read(b), values(64))


@pytest.mark.parametrize("name", ["ptx", "tensor_core_ptx"])
def test_the_twin_has_the_functions_of_the_gpu(name: str) -> None:
    def signatures(path: Path) -> set[str]:
        text = re.sub(r",\s*hostcuda::Where at = hostcuda::here\(\)", "", path.read_text())
        found = re.findall(r"^(?:__device__ )?inline ([\w *]+?\([^)]*\))", text, re.MULTILINE)
        one_line = (re.sub(r"\s+", " ", signature).replace("( ", "(") for signature in found)
        return {re.sub(r"\w+(?=[,)])", "", signature) for signature in one_line}

    gpu = signatures(TESTS.parent / "kernels" / "common" / f"{name}.cuh")
    gpu = {signature for signature in gpu if not signature.startswith("unsigned shared_address")}
    assert len(gpu) > 5
    assert gpu <= signatures(TESTS / "hostcuda" / f"{name}.h")
