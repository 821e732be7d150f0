"""Each kind of mistake that a kernel can make is seen on the host: a toy kernel makes it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hostcuda import CompileError, HostDevice, KernelError, Launched, compiler_path
from hostcuda.toys import DOUBLE, REVERSE, params, run, toy, values
from numpy.testing import assert_array_equal

from cudeform.gpu.protocol import DeviceArray, Kernel

pytestmark = pytest.mark.skipif(compiler_path() is None, reason="needs a C++ compiler")

SEEDS = range(4)


def fault(device: HostDevice, kernel: Kernel, *arrays: DeviceArray, **launch: int) -> KernelError:
    with pytest.raises(KernelError) as raised:
        run(device, kernel, *arrays, **launch)
    return raised.value


# ---- what is wrong: values -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_barrier_gives_a_wrong_result(seed: int) -> None:
    device = HostDevice(seed=seed)
    a, b = device.put(values(64)), device.empty((64,), "float32")
    run(device, toy(REVERSE.replace("__syncthreads();", "")), a, b, shared_bytes=256)
    assert np.isnan(device.read(b)).any()


REDUCTION = """
    __shared__ float sums[64];
    for (int round = 0; round < 2; ++round) {
        sums[threadIdx.x] = a[i] + round;
        __syncthreads();  // 1
        for (int half = 32; half > 0; half /= 2) {
            if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
            __syncthreads();  // 2
        }
        b[2 * i + round] = sums[0];
        __syncthreads();  // 3
    }
"""


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_each_barrier_of_a_reduction_is_needed(missing: int) -> None:
    kernel = toy(REDUCTION.replace(f"__syncthreads();  // {missing}", ""))
    right = []
    for seed in SEEDS:
        device = HostDevice(seed=seed)
        a, b = device.put(values(64)), device.empty((64, 2), "float32")
        run(device, kernel, a, b)
        right.append((device.read(b) == [64 * 65 / 2, 64 * 65 / 2 + 64]).all())
    assert all(right) if missing == 0 else not all(right)


def test_a_forgotten_element_stays_poison() -> None:
    device = HostDevice()
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        assert np.isnan(device.read(device.empty((3,), dtype)).astype(float)).all()
    a, b = device.put(values(60)), device.empty((60,), "float32")
    run(device, toy(DOUBLE.replace("g.n", "g.n - 1")), a, b, n=60)
    assert_array_equal(np.isnan(device.read(b)), np.arange(60) == 59)


def test_shared_memory_is_poison_in_every_block() -> None:
    kernel = toy("""
        __shared__ float tile[4], never[4];
        float* dynamic = reinterpret_cast<float*>(dynamic_shared());
        b[3 * blockIdx.x] = tile[2];
        b[3 * blockIdx.x + 1] = never[threadIdx.x];
        b[3 * blockIdx.x + 2] = dynamic[3];
        tile[2] = dynamic[3] = a[0];
    """)
    device = HostDevice()
    a, b = device.put(values(1)), device.empty((3, 3), "float32")
    device.fill_zero(b.pointer, 36)
    run(device, kernel, a, b, blocks=3, threads=1, shared_bytes=16)
    assert np.isnan(device.read(b)).all()


# ---- what is wrong: accesses ---------------------------------------------------------------------

READ = toy("b[i] = a[i == 5 ? g.n : i];")
WRITE = toy("b[i == 5 ? g.n : i] = a[i];")


@pytest.mark.parametrize("flush", ["start", "end"])
@pytest.mark.parametrize("kernel", [READ, WRITE], ids=["reads", "writes"])
def test_an_access_outside_faults(flush: Any, kernel: Kernel) -> None:
    device = HostDevice(flush=flush)
    a, b = device.put(values(64)), device.empty((64,), "float32")
    index = -1 if flush == "start" else 64
    verb = "reads" if kernel is READ else "writes"
    place = "4 bytes before the start" if flush == "start" else "0 bytes past the end"
    error = fault(device, kernel, a, b, n=index)
    assert re.fullmatch(
        rf"toy, block 0, thread 5: (toy\.cu:1: )?{verb} {place} of a buffer of 256 bytes",
        str(error),
    )
    assert (error.kernel, error.block, error.thread) == ("toy", 0, 5)
    far = fault(device, kernel, a, b, n=index * 1000)
    assert "bytes past the end of" in str(far) or "bytes before the start of" in str(far)
    run(device, kernel, a, b, n=5)  # the device still works
    assert_array_equal(device.read(b), values(64))
    assert [type(entry) for entry in device.log] == [Launched]


@pytest.mark.parametrize("flush", ["start", "end"])
def test_an_access_within_a_margin_is_seen(flush: Any) -> None:
    device = HostDevice(flush=flush)
    a, b = device.put(values(63)), device.empty((63,), "float32")
    run(device, READ, a, b, n=63, threads=63)
    assert_array_equal(np.isnan(device.read(b)), np.arange(63) == 5)
    error = fault(device, WRITE, a, b, n=63, threads=63)
    assert str(error) == "toy: wrote 0 bytes past the end of a buffer of 252 bytes"
    run(device, WRITE, a, b, n=5, threads=63)  # it was seen, and told once
    fault(device, toy("b[g.n] = 0; b[1 << 20] = 0;"), a, b, n=63, threads=1)
    run(device, WRITE, a, b, n=5, threads=63)  # this, too


MISDEEDS = toy(
    """
    if (i != 9) return;
    switch (g.what) {
    case 0: b[0] = *reinterpret_cast<const float*>(addresses[0]); break;
    case 1: *reinterpret_cast<float*>(addresses[1]) = b[0]; break;
    case 2: b[0] = *reinterpret_cast<const float*>(0x123456789abcdef0); break;
    case 3: dynamic_shared()[g.n] = 0; break;
    case 4: for (volatile int forever = 1; forever;) {} break;
    }
    """,
    "const long long* addresses, float* b",
)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (0, r"reads at byte 8 of a buffer of 16 bytes, which was freed"),
        (1, r"writes at a null pointer"),
        (2, r"reads or writes at an impossible address"),
        (3, r"writes 16 bytes past the end of a buffer of 16 bytes"),
        (4, r"gave up after 0\.1 s of processor time"),
    ],
)
def test_misdeeds(what: int, message: str) -> None:
    device = HostDevice(seconds=0.1)
    freed = device.put(values(4))
    device.free(freed)
    addresses = device.put(np.array([freed.pointer + 8, 0]))
    b = device.empty((1,), "float32")
    error = fault(device, MISDEEDS, addresses, b, n=32, what=what, shared_bytes=16)
    assert re.search(message, str(error))
    assert error.thread == 9


def test_a_stack_that_is_too_small() -> None:
    helper = """
        __noinline__ float deep(const float* a, int n) {
            volatile float local[64] = {a[0]};
            return n > 0 ? deep(a, n - 1) + local[n % 64] : local[0];
        }
    """
    device = HostDevice()
    a, b = device.put(values(1)), device.empty((64,), "float32")
    error = fault(device, toy("b[i] = deep(a, 1 << 20);", helpers=helper), a, b)
    assert "past the end of its stack" in str(error)


UNDEFINED = toy(
    """
    __shared__ int table[8];
    table[0] = 1;
    switch (g.what) {
    case 0: b[i] = table[g.n]; break;
    case 1: b[i] = static_cast<int>(a[g.n]); break;
    case 2: b[i] = g.n * g.n; break;
    case 3: b[i] = 1 << g.n; break;
    case 4: b[i] = 7 / (g.n - 1); break;
    case 5: b[i] = reinterpret_cast<const vec16_t*>(a + 1)->w[0]; break;
    case 6: b[i] = load16(a + 1).w[0]; break;
    case 7: store16(b + 1, load16(a)); break;
    case 8: b[i] = load16(table).w[0]; break;
    case 9: atomicAdd(reinterpret_cast<int*>(1 + reinterpret_cast<char*>(b)), 1); break;
    case 10: __builtin_assume(g.n > 0); __builtin_assume(g.n > 1 << 20); break;
    }
    """,
    "const float* a, int* b",
)


@pytest.mark.parametrize(
    ("what", "n", "message"),
    [
        (0, 8, "index outside of an array"),
        (1, 0, "conversion of a number that the integer cannot hold"),
        (1, 1, "conversion of a number that the integer cannot hold"),
        (2, 1 << 16, r"signed overflow of \*"),
        (3, 32, "shift by too much"),
        (4, 1, "division by zero, or overflow of /"),
        (5, 1, "misaligned access"),
        (6, 1, "load16 of the misaligned address 0x"),
        (7, 1, "store16 of the misaligned address 0x"),
        (8, 1, "load16 of 0x.*, which is not global memory"),
        (9, 1, "atomicAdd of the misaligned address 0x"),
        (10, 1, "assumed g.n > 1 << 20"),
    ],
)
def test_undefined_arithmetic_and_alignment(what: int, n: int, message: str) -> None:
    device = HostDevice()
    a, b = device.put(np.float32([2.0**31, np.nan, 1, 1, 1])), device.empty((8,), "int32")
    error = fault(device, UNDEFINED, a, b, n=n, what=what, threads=1)
    assert re.search(f"toy.cu:{5 + what}: {message}", str(error))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "if (i == 70) return;\n__syncthreads();",
            r"thread 0 waits at toy\.cu:2 for thread 70, which has left the kernel",
        ),
        (
            "if (i % 2)\n__syncthreads();\nelse\n__syncthreads();",
            r"thread \d+ waits at toy\.cu:[24], and thread \d+ at toy\.cu:[24]",
        ),
        (
            "if (i < 33)\n__syncwarp();\nelse\n__syncwarp();",
            r"thread 32 waits at toy\.cu:2 for thread 33, which waits at toy\.cu:4",
        ),
        (
            "if (i == 3)\n__syncthreads();\n__shfl_sync(~0u, i, 0);",
            r"thread 3 waits at toy\.cu:2 for thread 0, which waits at toy\.cu:3",
        ),
        (
            "if (i == 3)\n__syncwarp(1);",
            r"toy\.cu:2: lane 3 is not in its own mask 00000001",
        ),
    ],
    ids=["left", "two places", "two places of a warp", "block and warp", "mask"],
)
def test_divergence_is_reported(body: str, message: str) -> None:
    device = HostDevice()
    a = device.put(values(1))
    error = fault(device, toy(body, "const float* a"), a, threads=96)
    assert re.search(message, str(error))


# ---- what is wrong: races ------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_each_race_of_a_reduction_is_reported(missing: int) -> None:
    for seed in SEEDS:
        device = HostDevice(seed=seed, races=True)
        a, b = device.put(values(64)), device.empty((64, 2), "float32")
        run(device, toy(REDUCTION), a, b)
        racy = toy(REDUCTION.replace(f"__syncthreads();  // {missing}", ""))
        assert re.search(
            r"toy\.cu:\d+: race: (reads|writes) what (thread \d+|several threads) of block 0 "
            r"(wrote|read), and nothing puts them in order",
            str(fault(device, racy, a, b)),
        )


RACY = {
    "b[0] = a[i];": r"race: writes what thread \d+ of block \d wrote",
    "if (threadIdx.x == 0) b[0] = a[i];": r"race: writes what thread 0 of block \d wrote",
    "b[i] = b[(i + 1) % g.n];": r"race: (reads|writes) what thread \d+ of block \d (wrote|read)",
    "atomicAdd(b, a[i]); b[0] += 1;": "race: (reads|writes) what .* wrote",
    "add_global(b, a[i]); if (i == 5) b[0] = 1;": "race: writes what .* wrote",
    "b[i] = a[0]; if (i == 5) a[0] = 1;": "race: (writes|reads) what .* (wrote|read)",
    "const float x = __shfl_sync(~0u, a[0], 0); if (i % 64 == 5) a[0] = x;": (
        r"race: writes what several threads of block \d read"
    ),
    "b[i] = a[i]; if (i % 32 == 5) b[i + 1] = b[i - 1];": "race: (reads|writes) what thread",
}
NOT_RACY = [
    "atomicAdd(b, a[i]); add_global(b + 1, 1.0f);",
    "b[i] = a[0] + a[i];",
    "b[i] = a[i]; __syncwarp(); if (i % 32 == 5) b[i] = b[i - 1] + b[i + 1];",
    "b[i] = a[i]; __syncthreads(); if (i % 64 == 5) b[i] = b[i - 1] + b[i + 40];",
    "__shared__ float x[64]; x[threadIdx.x] = a[i]; b[i] = x[threadIdx.x];",
]
RACES = toy(
    "switch (g.what) {"
    + "\n".join(f"case {i}: {{ {body} break; }}" for i, body in enumerate([*RACY, *NOT_RACY]))
    + "}",
    "float* a, float* b",
)


@pytest.mark.parametrize("body", [*RACY, *NOT_RACY])
def test_races_between_threads_and_blocks(body: str) -> None:
    what = [*RACY, *NOT_RACY].index(body)
    for seed in SEEDS:
        device = HostDevice(seed=seed, races=True)
        a, b = device.put(values(256)), device.put(values(256))
        if body in RACY:
            error = str(fault(device, RACES, a, b, n=256, what=what, blocks=4))
            assert re.search(RACY[body], error)
            assert f"toy.cu:{what + 1}: " in error
        # Launches are in order: whatever the first did, the next is right.
        run(device, RACES, a, b, n=256, what=max(what, len(RACY)), blocks=4)


# ---- what is wrong: launches and texts -----------------------------------------------------------


def test_a_launch_that_no_gpu_would_do_is_refused() -> None:
    device = HostDevice(shared_limit=1000)
    kernel = toy(DOUBLE)
    a, b = device.put(values(4)), device.empty((4,), "float32")
    for launch, message in (
        ({"threads": 1025}, "threads must be 1 to 1024, got 1025"),
        ({"blocks": 0}, "blocks must be 1 to 2147483647, got 0"),
        ({"shared_bytes": 1001}, "shared_bytes must be at most 1000, got 1001"),
    ):
        with pytest.raises(ValueError, match=message):
            run(device, kernel, a, b, **launch)
    with pytest.raises(TypeError, match="toy takes 2 pointers, got 1"):
        run(device, kernel, a)
    with pytest.raises(TypeError, match="toy takes a struct of 8 bytes, got 1 of 4 bytes"):
        device.launch(kernel, 1, 1, (a.pointer, b.pointer), np.zeros(1, np.int32))
    device.free(a)
    with pytest.raises(ValueError, match=r"pointer 0 is at byte 0 of a buffer .*, which was freed"):
        run(device, kernel, a, b)
    device.launch(kernel, 1, 1, (0, b.pointer), params())  # an array that is absent
    assert len(device.log) == 1


@pytest.mark.parametrize(
    ("body", "parameters", "message"),
    [
        ("\nb[i] = c[i];", "const float* a, float* b", r"toy\.cu:2:.* 'c' was not declared"),
        ("b[i] = a[i] * 0.5;", "const float* a, float* b", r"toy\.cu:1:.*double-promotion"),
        ("int lanes = __activemask();", "float* b", "pass the mask that you mean"),
        ("atomicAdd(b, 1);", "short* b", r"deleted function"),
        ("", "float* b, int n", "a kernel takes pointers and then one struct"),
    ],
)
def test_a_text_that_is_wrong_is_refused(body: str, parameters: str, message: str) -> None:
    device = HostDevice()
    with pytest.raises(CompileError, match=message):
        run(device, toy(body, parameters))
