"""A wrong access, number or barrier stops a kernel with an error that names the line."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from hostcuda.toys import fault, run, toy, values
from numpy.testing import assert_array_equal

from cudeform.gpu.device_api.commands import Kernel

pytestmark = needs_compiler

READ = toy("b[i] = a[i == 5 ? g.n : i];")
WRITE = toy("b[i == 5 ? g.n : i] = a[i];")


@pytest.mark.parametrize("flush", ["start", "end"])
@pytest.mark.parametrize("kernel", [READ, WRITE], ids=["reads", "writes"])
def test_an_access_outside_faults(flush: Any, kernel: Kernel) -> None:
    device = HostDevice(flush=flush)
    a, b = device.put(values(64)), device.empty((64,), "float32")
    index = -1 if flush == "start" else 64
    verb = "reads" if kernel is READ else "writes"
    location = "4 bytes before the start" if flush == "start" else "0 bytes past the end"
    error = fault(device, kernel, a, b, n=index)
    assert re.fullmatch(
        rf"toy, block 0, thread 5: (toy\.cu:1: )?{verb} {location} of a buffer of 256 bytes",
        str(error),
    )
    assert (error.kernel, error.block, error.thread) == ("toy", 0, 5)
    far = fault(device, kernel, a, b, n=index * 1000)
    assert "bytes past the end of" in str(far) or "bytes before the start of" in str(far)
    run(device, kernel, a, b, n=5)  # the device still works
    assert_array_equal(device.read(b), values(64))
    assert [type(entry) for entry in device.log] == [Launched]


BUILT_IN = [
    "b[0] = __ldg(a + g.n);",
    "atomicAdd(b + g.n, 1.0f);",
    "store16(b, load16(a + g.n));",
    "store16(b + g.n, load16(a));",
    "add_global(b + g.n, 1.0f);",
    "add_global4(b + g.n, 1, 1, 1, 1);",
]


def test_an_access_by_a_built_in_function_has_the_line_of_the_kernel() -> None:
    lines = (f"if (g.what == {what}) {line}" for what, line in enumerate(BUILT_IN))
    kernel, device = toy("\n".join(lines)), HostDevice()
    a, b = device.put(values(64)), device.put(values(64))
    for what in range(len(BUILT_IN)):
        error = fault(device, kernel, a, b, n=4096, what=what, threads=1)
        assert str(error).startswith(f"toy, block 0, thread 0: toy.cu:{what + 1}: "), error


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
