"""The CPU engine of operators that sum samples: forward mode and the double backward."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from support import canonical_sums_reference as reference
from support.canonical_sums import (
    OPERANDS,
    Arrays,
    CanonicalSum,
    attention,
    dcnv3,
    directions,
    packed,
)
from support.cpu_sums import backward, double_backward, jvp

from cudeform.options import Options

CASES = {
    "attention": attention(),
    "many taps": attention([(9, 4, 70), (2, 3, 13)], queries=3, groups=2),
    "dcnv3": dcnv3(),
}
SUBSETS = [names for count in range(4) for names in combinations(OPERANDS, count)]
STEP = 1e-6


def expected_jvp(case: CanonicalSum, tangents: Arrays, rule: str = "one_sided") -> Any:
    """The tangent of the output, by plain loops."""
    full = (tangents.get(n, np.zeros_like(getattr(case, n))) for n in OPERANDS)
    return reference.jvp(case.g, *case.arrays, tuple(full), rule == "zero")


def stepped(case: CanonicalSum, tangents: Arrays, step: float) -> CanonicalSum:
    """The case with its operands plus a step along tangents."""
    return replace(case, **{n: getattr(case, n) + step * each for n, each in tangents.items()})


def at_minus_one() -> CanonicalSum:
    """Coordinates on the border where the two conventions differ, and beside it."""
    case = attention([(4, 4, 8)], batch=1, queries=1, groups=1, channels=3)
    pixels = [(-1, 0), (0, -1), (-1, -1), (3, 3), (0, 0), (-1, 1.5), (4, 0), (1.5, -1)]
    case.offset[0, 0, 0, 0] = (np.array(pixels) + 0.5) / 4
    return case


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jvp(name: str, dtype: str) -> None:
    case = CASES[name].cast(dtype)
    for present in SUBSETS:
        tangents = directions(case, present)
        wanted = expected_jvp(case, tangents)
        limit = (1e-12 if dtype == "float64" else 2e-5) * (1 + np.abs(wanted).max())
        np.testing.assert_allclose(jvp(case, tangents), wanted, 0, limit)


@pytest.mark.parametrize("rule", ["one_sided", "zero"])
def test_a_coordinate_of_minus_one(rule: Any) -> None:
    case, options = at_minus_one(), Options(boundary_grad=rule)
    along = directions(case)
    tangent = jvp(case, along, options)
    np.testing.assert_allclose(tangent, expected_jvp(case, along, rule), 1e-12, 1e-12)
    results = double_backward(case, along, options)
    np.testing.assert_allclose(results["grad_output"], tangent, 1e-12, 1e-12)
    for by_offset in results["offset"][0, 0, 0, 0, [0, 1, 2, 5, 7]]:
        assert by_offset.any() == (rule == "one_sided")


@pytest.mark.parametrize("name", CASES)
def test_jvp_agrees_with_the_backward(name: str) -> None:
    case = CASES[name]
    along, grads = directions(case), backward(case)
    total = sum((grads[name] * along[name]).sum() for name in OPERANDS)
    np.testing.assert_allclose((jvp(case, along) * case.grad_output).sum(), total, 1e-10)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("present", SUBSETS)
def test_double_backward(name: str, present: tuple[str, ...]) -> None:
    case = CASES[name]
    along = directions(case, present)
    results = double_backward(case, along)
    np.testing.assert_allclose(results["grad_output"], jvp(case, along), 1e-12, 1e-12)
    # Second derivatives are symmetric: the gradient of the derivative along the cotangents is the
    # derivative of the gradient along them.
    above, below = (backward(stepped(case, along, step)) for step in (STEP, -STEP))
    for name in OPERANDS:
        slope = (above[name] - below[name]) / (2 * STEP)
        limit = 1e-7 * (1 + np.abs(slope).max())
        np.testing.assert_allclose(results[name], slope, 1e-7, limit)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str) -> None:
    case = packed(dcnv3().cast(dtype, "float32"))
    along = directions(case)
    wide = replace(
        case,
        input=case.input.astype(np.float32),
        grad_output=case.grad_output.astype(np.float32),
    )
    wider = along | {"input": along["input"].astype(np.float32)}
    half, single = double_backward(case, along), double_backward(wide, wider)
    half["output"], single["output"] = jvp(case, along), jvp(wide, wider)
    for name, result in half.items():
        np.testing.assert_array_equal(result, single[name].astype(result.dtype), name)


def test_an_image_and_its_tangent_with_different_strides() -> None:
    case = dcnv3(dtype="float32")
    along = directions(case)
    strided = along | {"input": along["input"][:, ::-1].copy()[:, ::-1]}
    np.testing.assert_array_equal(jvp(case, strided), jvp(case, along))
    some, others = double_backward(case, strided), double_backward(case, along)
    for name, result in some.items():
        np.testing.assert_array_equal(result, others[name], name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coordinates_that_are_not_finite(bad: float) -> None:
    case = attention()
    case.offset[1, 2, 0, 1, 3, 0] = bad
    along, nan_coord = directions(case), np.isnan(bad)
    wrong = np.isnan(jvp(case, along))
    assert wrong[1, 2, 0, 1].all() == nan_coord
    assert wrong.sum() == nan_coord * case.g.channels
    results = double_backward(case, along)
    assert np.isfinite(results["input"]).all()
    assert np.isnan(results["offset"]).sum() == 2 * nan_coord
    assert np.isnan(results["mask"]).sum() == nan_coord


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_threads_and_workspace_change_no_bit(dtype: str) -> None:
    case = dcnv3(batch=3, channels=33).cast(dtype)
    along = directions(case)
    bytes_of_four = 4 * 4 * (6 * case.g.taps + case.g.channels) * case.g.groups * 2

    def results(options: Options) -> list[Any]:
        return [jvp(case, along, options), *double_backward(case, along, options).values()]

    one = results(Options(num_threads=1))
    for options in (Options(num_threads=3), Options(workspace_limit=bytes_of_four)):
        for a, b in zip(results(options), one, strict=True):
            np.testing.assert_array_equal(a, b)


def test_empty() -> None:
    case = attention(queries=0)
    along = directions(case)
    assert jvp(case, along).size == 0
    assert not any(each.any() for each in double_backward(case, along).values())
