"""A call takes no other's plan: whatever a plan depends on makes another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Case, build, random_cases
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from hypothesis import given
from hypothesis import strategies as st
from support.gpu_engine import LoggingDevice, backward, everything, forward, geometry
from support.gpu_engine import operands as put
from support.gpu_plans import COLUMNS, bits, planned

from cudeform import gpu
from cudeform.gpu import overrides
from cudeform.gpu.device_api.commands import FillZero
from cudeform.gpu.replay import launch_plans
from cudeform.gpu.replay.launch_plans import PlanCache
from cudeform.options import Options

pytestmark = needs_compiler


@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layouts=st.lists(st.sampled_from(list(LAYOUTS)), min_size=2, max_size=3),
    deterministic=st.booleans(),
    skews=st.lists(st.integers(0, 8), min_size=2, max_size=3),
    flush=st.sampled_from(["start", "end"]),
)
def test_random_calls_that_take_turns(
    case: Case,
    dtype: str,
    layouts: list[str],
    deterministic: bool,
    skews: list[int],
    flush: Any,
) -> None:
    """Whatever two calls have in common, neither takes the other's plan."""
    options = Options(deterministic=deterministic)
    with planned():
        device = HostDevice(flush=flush)
        for _ in range(2):
            for layout, skew in zip(layouts, skews, strict=False):
                laid = case.cast(dtype).laid_out(layout)
                got = everything(device, laid, options, skew=skew)
                with mock.patch.object(launch_plans, "PLANS", PlanCache()):
                    wanted = everything(HostDevice(flush=flush), laid, options, skew=skew)
                assert bits(got) == bits(wanted)


def strided(case: Case) -> Case:
    """The same sizes, and an input whose pixels are further apart."""
    last = np.ascontiguousarray(np.moveaxis(case.input, 1, -1))
    return replace(case, input=np.moveaxis(last, -1, 1))


MMCV = Options(boundary_grad="zero")
CHANGES: dict[str, Callable[[Case], tuple[Case, Options, dict[str, Any]]]] = {
    "dtype": lambda case: (case.cast("float64"), Options(), {}),
    "strides": lambda case: (strided(case), Options(), {}),
    "alignment": lambda case: (strided(case), Options(), {"skew": 1}),
    "deterministic": lambda case: (case, Options(deterministic=True), {}),
    "boundary_grad": lambda case: (case, MMCV, {}),
    "allow_tf32": lambda case: (case, Options(allow_tf32=True), {}),
    "workspace_limit": lambda case: (case, Options(workspace_limit=40_000), {}),
    "stride": lambda case: (resized(case), Options(), {}),
}


def resized(case: Case) -> Case:
    """The same shapes of input, offset and weight, reached by other padding."""
    return replace(case, padding=((0, 2), (1, 1)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_that_differs_gets_a_plan_of_its_own(change: str) -> None:
    case = build("plan", channels=8, size=(6, 5), out_channels=4, padding=((1, 1), (1, 1)))
    case = replace(case.cast("float32"), offset=np.round(case.offset).astype("float32"))
    other, options, how = CHANGES[change](case)
    wanted = everything(HostDevice(), other, options, **how)
    device = HostDevice()
    with planned() as store:
        plain = everything(device, case)
        if change == "alignment":
            everything(device, other, options)
        before = len(store)
        got = everything(device, other, options, **how)
        assert len(store) > before
        assert bits(got) == bits(wanted)
        assert bits(everything(device, case)) == bits(plain)


def test_what_is_needed_makes_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        for needs in (("input",), ("offset", "mask"), ("weight",), ("bias", "weight")):
            got = backward(device, case, needs=needs)
            assert bits(got) == bits(backward(HostDevice(), case, needs=needs))
    assert len(store) == 8  # four for each device


def test_absent_operands_make_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        for absent in ({}, {"bias": None}, {"mask": None}, {"bias": None, "mask": None}):
            less = replace(case, **absent)
            got, before = forward(device, less), len(store)
            assert got.tobytes() == forward(HostDevice(), less).tobytes()
            assert len(store) == before + 1


def test_a_forced_path_makes_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        forward(device, case)
        with overrides.force(algorithm="im2col"):
            forward(device, case)
        assert len(store) == 2


def test_a_forced_scatter_makes_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        backward(device, case)
        with overrides.force(scatter="gather"):
            backward(device, case)
        assert len(store) == 2
    kernels = {did.kernel for did in device.log if isinstance(did, Launched)}
    assert kernels >= {"gather_grad_input", "deform_backward"}


def test_functions_do_not_share_plans() -> None:
    case, device = COLUMNS.cast("float32"), LoggingDevice()
    g, ops = geometry(case), put(device, case)

    def one(device: Any, operands: Any, g: Any, options: Any, output: Any) -> None:
        device.queue(FillZero(4), [output.pointer])

    def other(device: Any, operands: Any, g: Any, options: Any, output: Any) -> None:
        device.queue(FillZero(8), [output.pointer])

    with planned():
        for function in (one, other, one):
            gpu.run(function, device, ops, g, Options(), ops.input)
    assert device.zeroed == [4, 8, 4]


def test_devices_that_differ_do_not_share_plans() -> None:
    case = COLUMNS.cast("float32")
    few, many = HostDevice(multiprocessors=1), HostDevice(multiprocessors=64)
    few.kind = many.kind = "the same"
    newer = HostDevice(compute_capability=90, multiprocessors=1)
    newer.kind = few.kind
    with planned() as store:
        for device in (few, many, newer):
            forward(device, case)
    assert len(store) == 3
