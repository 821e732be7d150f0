"""One and three dimensions by the GPU engine: reproducible results, tangents, double gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import HALF_DTYPES, Case
from checks import needs_compiler, random_like
from hostcuda import HostDevice
from support import cpu_engine
from support.axes_cases import CASES, LANES, SOME, WIDE_VOLUME, by_name
from support.gpu_cases import assert_all_agree, cast
from support.gpu_engine import (
    NewDevice,
    bits,
    everything,
    on_host,
)

from cudeform.options import Options

DETERMINISTIC = Options(deterministic=True)


@pytest.mark.promise("reproducible")
@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in HALF_DTYPES)]
)
@pytest.mark.parametrize("case", SOME, **by_name)
def test_deterministic_results_have_the_same_bits(
    new_device: NewDevice, case: Case, dtype: str
) -> None:
    case = cast(case, dtype)
    first = bits(everything(new_device(), case, DETERMINISTIC))
    for seed, multiprocessors in ((1, 1), (2, 4)):
        device = new_device(seed=seed, multiprocessors=multiprocessors)
        assert bits(everything(device, case, DETERMINISTIC)) == first


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("case", [*SOME, LANES[2]], **by_name)
def test_no_two_threads_race(case: Case) -> None:
    case = cast(case, "float32")
    for options in (Options(), DETERMINISTIC):
        device = HostDevice(races=True, multiprocessors=1)
        assert_all_agree(everything(device, case, options), case)
        on_host(case, random_like(case.operands), options, races=True, multiprocessors=1)


@pytest.mark.parametrize("case", SOME, **by_name)
def test_a_plan_changes_no_bit(new_device: NewDevice, case: Case) -> None:
    case = cast(case, "float32")
    queued, planned = (
        bits(everything(new_device(), case, DETERMINISTIC, planned=planned))
        for planned in (False, True)
    )
    assert queued == planned


@pytest.mark.promise("differentiable twice")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("case", "rule"),
    [
        (CASES[0], "one_sided"),
        (CASES[5], "zero"),
        *(
            pytest.param(case, rule, marks=pytest.mark.slow)
            for case in (CASES[1], *SOME[1:], LANES[3])
            for rule in ("one_sided", "zero")
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_tangents_and_double_gradients_are_those_of_the_cpu(
    case: Case, rule: Any, dtype: str, deterministic: bool
) -> None:
    case = cast(case, dtype)
    tangents = random_like(case.operands)
    options = Options(boundary_grad=rule, deterministic=deterministic)
    tangent = cpu_engine.jvp(case, tangents, options)
    results = cpu_engine.double_backward(case, tangents, options)
    got_tangent, got = on_host(case, tangents, options)
    error = 1e-12 if dtype == "float64" else 4e-6
    for mine, theirs in [(got_tangent, tangent), *((got[n], results[n]) for n in got)]:
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=error * abs(theirs).max())


@needs_compiler
def test_deterministic_double_gradients_have_the_same_bits() -> None:
    case = cast(WIDE_VOLUME, "float32")
    tangents = random_like(case.operands)
    runs = [
        bits(on_host(case, tangents, DETERMINISTIC, planned=planned, seed=seed)[1])
        for seed, planned in ((0, False), (1, False), (2, True))
    ]
    assert runs[0] == runs[1] == runs[2]
