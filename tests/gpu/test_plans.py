"""A launch plan changes neither bits nor launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, Case, named
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from support.gpu_engine import LoggingDevice, TestDevice, everything, forward
from support.gpu_plans import COLUMNS, DIRECT, FUSED, WIDE, bits, planned

from cudeform.options import Options

pytestmark = needs_compiler


def another(case: Case) -> Case:
    """A case of the same sizes with other contents."""
    rng = np.random.default_rng(7)
    return case.map(lambda array: rng.permutation(array.ravel()).reshape(array.shape))


def done(device: HostDevice) -> list[Any]:
    """What a device did, without addresses."""
    return [
        did if isinstance(did, Launched) else (did.m, did.n, did.k, did.batch, did.beta)
        for did in device.log
    ]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [COLUMNS, DIRECT, WIDE], ids=lambda case: case.name)
def test_a_plan_changes_neither_bits_nor_launches(
    case: Case, dtype: str, deterministic: bool
) -> None:
    case, options = case.cast(dtype), Options(deterministic=deterministic)
    direct, device = LoggingDevice(), LoggingDevice()
    wanted = everything(direct, case, options)
    with planned() as store:
        everything(device, another(case), options)
        assert len(store) == 2
        device.log.clear(), device.zeroed.clear()
        got = everything(device, case, options)
        assert len(store) == 2
    assert bits(got) == bits(wanted)
    assert done(device) == done(direct)
    assert device.zeroed == direct.zeroed


def test_the_fused_forward_is_planned() -> None:
    case = FUSED.cast("float16")
    wanted = forward(HostDevice(), case)
    with planned() as store:
        device = HostDevice()
        for _ in range(2):
            device.log.clear()
            assert forward(device, case).tobytes() == wanted.tobytes()
        assert len(store) == 1
    assert "deform_fused" in {did.kernel for did in device.log if isinstance(did, Launched)}


@pytest.mark.parametrize("deterministic", [False, True])
def test_on_the_device(new_device: Callable[..., TestDevice], deterministic: bool) -> None:
    """Only ordered sums are the same, bit by bit, on a GPU."""
    options = Options(deterministic=True)
    for case in (COLUMNS, WIDE):
        case, device = case.cast("float16"), new_device()
        wanted = everything(device, case, options)
        with planned():
            for _ in range(3):
                assert bits(everything(device, case, options)) == bits(wanted)


def test_a_batch_that_runs_backwards() -> None:
    """Parts of such arrays begin before the address of their first element."""
    case = named("batch 37").cast("float32").map(lambda array: array[::-1])
    with planned():
        device = HostDevice()
        options = Options(workspace_limit=50_000)
        results = [bits(everything(device, case, options)) for _ in range(2)]
    assert results[0] == results[1] == bits(everything(HostDevice(), case, options))
