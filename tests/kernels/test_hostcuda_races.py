"""A missing barrier gives wrong results on the host; with race detection it is reported."""

from __future__ import annotations

import re

import numpy as np
import pytest
from checks import needs_compiler
from hostcuda import HostDevice
from hostcuda.toys import REVERSE, fault, run, toy, values

pytestmark = needs_compiler

SEEDS = range(4)


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
    "b[i] = a[i / 64 * 64]; __syncwarp(); if (i % 64 == 5) a[i - 5] = 1;": (
        r"race: (reads|writes) what (thread \d+|several threads) of block \d (read|wrote)"
    ),
}

NOT_RACY = [
    "atomicAdd(b, a[i]); add_global(b + 1, 1.0f);",
    "b[i] = a[0] + a[i];",
    "b[i] = a[i]; __syncwarp(); if (i % 32 == 5) b[i] = b[i - 1] + b[i + 1];",
    "b[i] = a[i / 32 * 32]; __syncwarp(); if (i % 32 == 5) a[i - 5] = 1;",
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
