"""Calls of CuPy for launches: kernels, their arguments, and replays of many steps."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.cupy_cuda import GEMM, RecordedCuda, replay_one

from cudeform.gpu.cuda.device import CupyDevice
from cudeform.gpu.device_api.commands import FillZero, Kernel, KernelLaunch, Step

KERNEL = Kernel("name", "text")
PARAMS = np.full(1, 7, np.dtype([("n", np.int32)]))


def test_a_launch_gets_addresses_and_the_struct(cuda: RecordedCuda) -> None:
    command = KernelLaunch(KERNEL, 3, 64, PARAMS, 100)
    replay_one(CupyDevice(1, 99), command, [2**46 + 16, 0])
    assert cuda.did == [
        ("enter", 1),
        ("context",),
        ("make", "text", "name"),
        ("launch", [3, 1, 1, 64, 1, 1, 100], [2**46 + 16, 0, 7], 99),
        ("exit", 1),
    ]


LAUNCH = KernelLaunch(KERNEL, 1, 32, PARAMS)
STEPS = [
    Step(LAUNCH, ((1, 0), (2, -8))),
    Step(FillZero(8), ((3, 64),)),
    Step(LAUNCH, ((3, 16), (0, 0))),
    Step(GEMM, ((1, 0), (2, 4), (3, 8))),
]


def test_steps_are_queued_at_their_addresses(cuda: RecordedCuda) -> None:
    device, prepared = CupyDevice(0, 99), list[Any]()
    for first in (1000, 2000):
        cuda.did.clear()
        device.replay(STEPS, [0, first, 2**40, 2**41], prepared)
        passed = [did[2] for did in cuda.did if did[0] == "launch"]
        assert passed == [[first, 2**40 - 8, 7], [2**41 + 16, 0, 7]]
        [zeros] = [did for did in cuda.did if did[0] == "zero"]
        assert zeros == ("zero", 2**41 + 64, 0, 8, 99)
        [product] = [did[4:] for did in cuda.did if did[0] == "gemm"]
        assert [product[at] for at in (6, 10, 15)] == [first, 2**40 + 4, 2**41 + 8]
    assert cuda.kinds() == ["enter", "launch", "zero", "launch", "gemm", "exit"]
    assert len(prepared) == 1


def test_calls_that_overlap_have_arguments_of_their_own(
    cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, prepared, inner = CupyDevice(0, 99), list[Any](), []
    driver = sys.modules["cupy"].cuda.driver
    plain = driver.launchKernel

    def interrupted(*how: int) -> None:
        if not inner:
            inner.append(True)
            device.replay(STEPS, [0, 5000, 6000, 7000], prepared)
        plain(*how)

    monkeypatch.setattr(driver, "launchKernel", interrupted)
    device.replay(STEPS, [0, 1000, 2000, 3000], prepared)
    passed = [did[2][:2] for did in cuda.did if did[0] == "launch"]
    assert passed == [[5000, 5992], [7016, 0], [1000, 1992], [3016, 0]]
    assert len(prepared) == 2


def test_an_error_leaves_the_device(cuda: RecordedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    device, prepared = CupyDevice(0, 99), list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["cupy"].cuda.cublas, "gemmStridedBatchedEx", None)
        with pytest.raises(TypeError):
            device.replay(STEPS, [0, 1000, 2000, 3000], prepared)
    assert cuda.kinds()[-1] == "exit"
    assert (cuda.math_mode, cuda.stream) == (5, 0)
    device.replay(STEPS, [0, 1000, 2000, 3000], prepared)
    assert cuda.kinds()[-2:] == ["gemm", "exit"]


def test_a_kernel_is_made_once_for_each_device(cuda: RecordedCuda) -> None:
    for index in (0, 0, 1):
        replay_one(CupyDevice(index, 0), LAUNCH, [16, 32])
    assert cuda.kinds().count("make") == 2


def test_shared_memory_beyond_48_kib_is_requested(cuda: RecordedCuda) -> None:
    device = CupyDevice(0, 0)
    for shared in (48 * 1024, 50_000, 50_000, 49_500, 60_000):
        replay_one(device, replace(LAUNCH, shared_bytes=shared), [16, 32])
    allowed = [did[1] for did in cuda.did if did[0] == "allow"]
    assert allowed == [50_000, 60_000]
    replay_one(CupyDevice(1, 0), replace(LAUNCH, shared_bytes=50_000), [16, 32])
    assert [did[1] for did in cuda.did if did[0] == "allow"] == [50_000, 60_000, 50_000]
