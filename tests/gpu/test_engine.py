"""The GPU engine agrees with the definition: every case of the CPU engine, and many at random."""

from __future__ import annotations

from typing import Any

import pytest
from cases import CASES, DTYPES, LAYOUTS, Case, random_cases
from checks import assert_agrees
from hypothesis import given
from hypothesis import strategies as st
from support.gpu_cases import DIRECT, WIDE, assert_all_agree, cast, expected
from support.gpu_engine import NewDevice, everything, fits_direct, through_columns, widened

from cudeform.gpu.device_api.kernel_source import widest
from cudeform.options import BOUNDARY_GRADS, Options

ALL = [*CASES, *WIDE, *DIRECT]
WAYS = [(case, "chosen") for case in ALL] + [(c, "columns") for c in ALL if fits_direct(c)]


@pytest.mark.promise("right", "safe")
@pytest.mark.each_value
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("case", "way"), WAYS, ids=[case.name + ", columns" * (way == "columns") for case, way in WAYS]
)
def test_named_cases(new_device: NewDevice, case: Case, way: str, dtype: str) -> None:
    case = cast(case, dtype)
    with through_columns(way == "columns"):
        results = everything(new_device(), case)
    sums = expected(case)
    assert results.keys() == sums.keys()
    if way == "chosen" and fits_direct(case):
        for name, array in results.items():
            assert_agrees(array, sums[name], name)  # there are no columns to round
    assert_all_agree(results, case)


def test_both_ways_are_taken() -> None:
    assert {fits_direct(case) for case in CASES} == {False, True}
    assert all(map(fits_direct, DIRECT))
    assert not any(map(fits_direct, WIDE))


@pytest.mark.promise("right", "safe")
@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    boundary_grad=st.sampled_from(BOUNDARY_GRADS),
    deterministic=st.booleans(),
    flush=st.sampled_from(["start", "end"]),
    seed=st.integers(0, 99),
    skew=st.integers(0, 3),
    columns=st.booleans(),
)
def test_random_cases(
    new_device: NewDevice,
    case: Case,
    dtype: str,
    layout: str,
    boundary_grad: Any,
    deterministic: bool,
    flush: str,
    seed: int,
    skew: int,
    columns: bool,
) -> None:
    case = case.cast(dtype).laid_out(layout)
    options = Options(boundary_grad=boundary_grad, deterministic=deterministic)
    with through_columns(columns):
        results = everything(new_device(flush=flush, seed=seed), case, options, skew=skew)
    assert_all_agree(results, case, boundary_grad)


@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    deterministic=st.booleans(),
    flush=st.sampled_from(["start", "end"]),
)
def test_random_cases_with_many_channels(
    new_device: NewDevice, case: Case, dtype: str, layout: str, deterministic: bool, flush: str
) -> None:
    case = widened(case, widest(dtype)).cast(dtype).laid_out(layout)
    results = everything(new_device(flush=flush), case, Options(deterministic=deterministic))
    assert_all_agree(results, case)
