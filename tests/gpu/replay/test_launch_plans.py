"""A launch plan changes neither bits nor launches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, Case, named
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from support.gpu_engine import LoggingDevice, NewDevice, bits, everything, forward, launches
from support.gpu_plans import COLUMNS, DIRECT, FUSED, WIDE

from cudeform.gpu.replay.launch_plans import PlanCache
from cudeform.options import Options

pytestmark = needs_compiler


def other_contents(case: Case) -> Case:
    """A case of the same sizes with other contents."""
    rng = np.random.default_rng(7)
    return case.map(lambda array: rng.permutation(array.ravel()).reshape(array.shape))


def commands(device: HostDevice) -> list[Any]:
    """What a device executed, without pointers."""
    return [
        did if isinstance(did, Launched) else (did.m, did.n, did.k, did.batch, did.beta)
        for did in device.log
    ]


@pytest.mark.each_value
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [COLUMNS, DIRECT, WIDE], ids=lambda case: case.name)
def test_a_plan_changes_neither_bits_nor_launches(
    plans: PlanCache, case: Case, dtype: str, deterministic: bool
) -> None:
    case, options = case.cast(dtype), Options(deterministic=deterministic)
    unplanned, device = LoggingDevice(), LoggingDevice()
    wanted = everything(unplanned, case, options)
    everything(device, other_contents(case), options, planned=True)
    assert len(plans) == 2
    device.log.clear(), device.zeroed.clear()
    got = everything(device, case, options, planned=True)
    assert len(plans) == 2
    assert bits(got) == bits(wanted)
    assert commands(device) == commands(unplanned)
    assert device.zeroed == unplanned.zeroed


def test_the_fused_forward_is_planned(plans: PlanCache) -> None:
    case, device = FUSED.cast("float16"), HostDevice()
    wanted = forward(HostDevice(), case)
    for calls in (1, 2):
        assert forward(device, case, planned=True).tobytes() == wanted.tobytes()
        assert launches(device)["deform_fused"] == calls
    assert len(plans) == 1


@pytest.mark.usefixtures("plans")
@pytest.mark.parametrize("case", [COLUMNS, WIDE], ids=lambda case: case.name)
def test_a_plan_changes_no_bit_of_a_deterministic_call(new_device: NewDevice, case: Case) -> None:
    case, device, options = case.cast("float16"), new_device(), Options(deterministic=True)
    wanted = bits(everything(device, case, options))
    for _ in range(3):
        assert bits(everything(device, case, options, planned=True)) == wanted


@pytest.mark.usefixtures("plans")
def test_a_batch_with_negative_strides() -> None:
    """Chunks of such arrays begin before the pointer, which is that of the first element."""
    case = named("batch 37").cast("float32").map(lambda array: array[::-1])
    device, options = HostDevice(), Options(workspace_limit=50_000)
    wanted = bits(everything(HostDevice(), case, options))
    for _ in range(2):
        assert bits(everything(device, case, options, planned=True)) == wanted
