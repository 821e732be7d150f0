"""A cached launch plan is used only by calls that would record the same plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Case, build, random_cases
from checks import needs_compiler
from hostcuda import HostDevice
from hypothesis import given
from hypothesis import strategies as st
from support.gpu_engine import (
    LoggingDevice,
    backward,
    bits,
    everything,
    forward,
    geometry,
    launches,
    operands,
)
from support.gpu_plans import COLUMNS

from cudeform import gpu
from cudeform.gpu import overrides
from cudeform.gpu.device_api.commands import FillZero
from cudeform.gpu.replay.launch_plans import PlanCache
from cudeform.options import Options

pytestmark = needs_compiler


@pytest.mark.usefixtures("plans")
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
    options, device = Options(deterministic=deterministic), HostDevice(flush=flush)
    for _ in range(2):
        for layout, skew in zip(layouts, skews, strict=False):
            laid = case.cast(dtype).laid_out(layout)
            got = everything(device, laid, options, skew=skew, planned=True)
            wanted = everything(HostDevice(flush=flush), laid, options, skew=skew)
            assert bits(got) == bits(wanted)


def strided(case: Case) -> Case:
    """The same sizes, and an input with channels last."""
    last = np.ascontiguousarray(np.moveaxis(case.input, 1, -1))
    return replace(case, input=np.moveaxis(last, -1, 1))


# Another case, other options and another skew, in place of a case with none of these.
CHANGES: dict[str, Callable[[Case], tuple[Case, Options, int]]] = {
    "dtype": lambda case: (case.cast("float64"), Options(), 0),
    "strides": lambda case: (strided(case), Options(), 0),
    "deterministic": lambda case: (case, Options(deterministic=True), 0),
    "boundary_grad": lambda case: (case, Options(boundary_grad="zero"), 0),
    "allow_tf32": lambda case: (case, Options(allow_tf32=True), 0),
    "workspace_limit": lambda case: (case, Options(workspace_limit=40_000), 0),
    "padding": lambda case: (replace(case, padding=((0, 2), (1, 1))), Options(), 0),
}


def changed_case() -> Case:
    case = build("plan", channels=8, size=(6, 5), out_channels=4, padding=((1, 1), (1, 1)))
    return replace(case.cast("float32"), offset=np.round(case.offset).astype("float32"))


def assert_other_plans(
    plans: PlanCache, case: Case, other: Case, options: Options, skew: int
) -> None:
    """Calls of ``case`` and ``other`` take turns: each has plans of its own, and is right."""
    device = HostDevice()
    first = bits(everything(device, case, planned=True))
    before = len(plans)
    got = bits(everything(device, other, options, skew=skew, planned=True))
    assert len(plans) > before
    assert got == bits(everything(HostDevice(), other, options, skew=skew))
    assert bits(everything(device, case, planned=True)) == first


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_that_differs_makes_another_plan(plans: PlanCache, change: str) -> None:
    case = changed_case()
    assert_other_plans(plans, case, *CHANGES[change](case))


def test_another_alignment_makes_another_plan(plans: PlanCache) -> None:
    case = strided(changed_case())
    assert_other_plans(plans, case, case, Options(), 1)


def test_needs_make_another_plan(plans: PlanCache) -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    for i, needs in enumerate((("input",), ("offset", "mask"), ("weight",), ("bias", "weight"))):
        got = backward(device, case, needs=needs, planned=True)
        assert len(plans) == i + 1
        assert bits(got) == bits(backward(HostDevice(), case, needs=needs))


def test_absent_operands_make_another_plan(plans: PlanCache) -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    absent = ({}, {"bias": None}, {"mask": None}, {"bias": None, "mask": None})
    for i, operands_ in enumerate(absent):
        less = replace(case, **operands_)
        got = forward(device, less, planned=True)
        assert len(plans) == i + 1
        assert got.tobytes() == forward(HostDevice(), less).tobytes()


def test_what_is_forced_makes_another_plan(plans: PlanCache) -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    for i, choice in enumerate(({}, {"algorithm": "im2col"}, {"scatter": "gather"})):
        with overrides.force(**choice):
            backward(device, case, planned=True)
        assert len(plans) == i + 1
        assert launches(device)["gather_grad_input"] == ("scatter" in choice)


@pytest.mark.usefixtures("plans")
def test_functions_do_not_share_plans() -> None:
    case, device = COLUMNS.cast("float32"), LoggingDevice()
    g, ops = geometry(case), operands(device, case)

    def one(device: Any, operands: Any, g: Any, options: Any, output: Any) -> None:
        device.queue(FillZero(4), [output.pointer])

    def other(device: Any, operands: Any, g: Any, options: Any, output: Any) -> None:
        device.queue(FillZero(8), [output.pointer])

    for function in (one, other, one):
        gpu.run(function, device, ops, g, Options(), ops.input)
    assert device.zeroed == [4, 8, 4]


def test_devices_that_differ_do_not_share_plans(plans: PlanCache) -> None:
    case = COLUMNS.cast("float32")
    few, many = HostDevice(multiprocessors=1), HostDevice(multiprocessors=64)
    newer = HostDevice(compute_capability=90, multiprocessors=1)
    for i, device in enumerate((few, many, newer)):
        device.kind = "the same"
        forward(device, case, planned=True)
        assert len(plans) == i + 1
