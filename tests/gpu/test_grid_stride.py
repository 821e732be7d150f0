"""Grid-stride loops: with more items than threads, no item is lost and nothing races."""

from __future__ import annotations

import numpy as np
import pytest
from cases import build
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from support.gpu_cases import assert_all_agree
from support.gpu_engine import everything

from cudeform.gpu import call
from cudeform.options import Options

pytestmark = needs_compiler


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("groups", [2, 24])
def test_more_items_than_threads(
    monkeypatch: pytest.MonkeyPatch, groups: int, deterministic: bool
) -> None:
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 2)
    case = build(
        "more items than threads",
        channels=48,
        size=(17, 19),
        out_channels=48,
        padding=((1, 1), (1, 1)),
        groups=groups,
        offset_groups=2,
        batch=3,
    ).cast("float32")
    options = Options(deterministic=deterministic)
    device = HostDevice(multiprocessors=1)
    few = everything(device, case, options)
    launches = [did for did in device.log if isinstance(did, Launched)]
    assert {did.blocks for did in launches} <= {1, 2}
    many = everything(HostDevice(multiprocessors=10_000), case, options)
    for name, array in few.items():
        np.testing.assert_allclose(array, many[name], rtol=1e-4, atol=1e-4, err_msg=name)
        if name != "input" or deterministic:
            assert array.tobytes() == many[name].tobytes(), name


@pytest.mark.each_value
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("groups", [1, 8])
def test_no_races(monkeypatch: pytest.MonkeyPatch, groups: int, deterministic: bool) -> None:
    """Blocks loop, and their threads share samples: every barrier is needed."""
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 1)
    case = build(
        "several iterations",
        channels=16,
        size=(9, 9),
        out_channels=8,
        groups=groups,
        offset_groups=2,
        batch=2,
    ).cast("float32")
    device = HostDevice(races=True, multiprocessors=1)
    assert_all_agree(everything(device, case, Options(deterministic=deterministic)), case)
    kernels = {did.kernel for did in device.log if isinstance(did, Launched)}
    assert ("deform_direct" in kernels) == (groups == 8)
