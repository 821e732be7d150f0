"""The engine agrees with the definition: output and all gradients, in every dtype."""

import pytest
from cases import CASES, DTYPES, LAYOUTS, Case, named, random_cases
from checks import assert_case_agrees, least_limit
from hypothesis import given
from hypothesis import strategies as st

import cudeform


@pytest.mark.promise("right", "safe")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_cases(case: Case, dtype: str) -> None:
    assert_case_agrees(case.cast(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["torchvision, batch 33", "offset half"])
def test_layouts(name: str, layout: str) -> None:
    assert_case_agrees(named(name).cast("float32").laid_out(layout))


@pytest.mark.parametrize(
    "name",
    ["torchvision, batch 33", "kernel of one tap", "depthwise", "offset nan and inf", "stride 2x3"],
)
def test_cut_into_single_positions(name: str) -> None:
    case = named(name).cast("float32")
    with cudeform.options(workspace_limit=least_limit(case)):
        assert_case_agrees(case)


@given(random_cases(), st.sampled_from(list(DTYPES)))
def test_random_cases(case: Case, dtype: str) -> None:
    assert_case_agrees(case.cast(dtype))


@given(random_cases(offsets=("zero", "whole", "half", "nan and inf")))
def test_random_cases_by_the_other_boundary_rule(case: Case) -> None:
    assert_case_agrees(case.cast("float64"), boundary_grad="zero")
