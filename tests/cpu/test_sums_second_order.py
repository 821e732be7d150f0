"""The CPU engine of operators that sum samples: forward mode and the double backward."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from support import sums_reference as reference
from support.cpu_sums import (
    SumCase,
    attention,
    backward,
    dcnv3,
    double_backward,
    jvp,
    packed,
    tangents_of,
)

from cudeform.options import Options

CASES = {
    "attention": attention(),
    "many taps": attention(((9, 4), (2, 3)), (70, 13), queries=3, groups=2),
    "dcnv3": dcnv3(),
}
ONE_SIDED, ZERO = Options(), Options(boundary_grad="zero")
STEP = 1e-6


def zeros_like(case: SumCase, vectors: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with zeros in place of None."""
    arrays = case.input, case.offset, case.mask
    pairs = zip(arrays, vectors, strict=True)
    return tuple(np.zeros_like(array) if each is None else each for array, each in pairs)


def moved(case: SumCase, vectors: tuple[Any, ...], step: float) -> SumCase:
    """The case with its operands moved along vectors."""
    arrays = case.input, case.offset, case.mask
    at = [array + step * each for array, each in zip(arrays, vectors, strict=True)]
    return replace(case, input=at[0], offset=at[1], mask=at[2])


def at_minus_one() -> SumCase:
    """Coordinates on the border where the two conventions differ, and beside it."""
    case = attention(((4, 4),), (8,), batch=1, queries=1, groups=1, channels=3)
    pixels = [(-1, 0), (0, -1), (-1, -1), (3, 3), (0, 0), (-1, 1.5), (4, 0), (1.5, -1)]
    case.offset[0, 0, 0, 0] = (np.array(pixels) + 0.5) / 4
    return case


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jvp(name: str, dtype: str) -> None:
    case = CASES[name].cast(dtype)
    vectors = tangents_of(case)
    for present in product((True, False), repeat=3):
        some = tuple(each if want else None for each, want in zip(vectors, present, strict=True))
        expected = reference.jvp(case.g, *case.arrays, zeros_like(case, some), False)
        limit = (1e-12 if dtype == "float64" else 2e-5) * (1 + np.abs(expected).max())
        np.testing.assert_allclose(jvp(case, some), expected, 0, limit)


@pytest.mark.parametrize("options", [ONE_SIDED, ZERO])
def test_a_coordinate_of_minus_one(options: Options) -> None:
    case, zero = at_minus_one(), options is ZERO
    vectors, grad_output = tangents_of(case), case.like_output()
    tangent = jvp(case, vectors, options)
    expected = reference.jvp(case.g, *case.arrays, vectors, zero)
    np.testing.assert_allclose(tangent, expected, 1e-12, 1e-12)
    results = double_backward(case, grad_output, vectors, options)
    np.testing.assert_allclose(results[0], tangent, 1e-12, 1e-12)
    for by_offset in results[2][0, 0, 0, 0, [0, 1, 2, 5, 7]]:
        assert by_offset.any() != zero


@pytest.mark.parametrize("name", CASES)
def test_jvp_agrees_with_the_backward(name: str) -> None:
    case = CASES[name]
    vectors, grad_output = tangents_of(case), case.like_output()
    grads = backward(case, grad_output)
    along = sum((a * b).sum() for a, b in zip(grads, vectors, strict=True))
    np.testing.assert_allclose((jvp(case, vectors) * grad_output).sum(), along, 1e-10)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("present", list(product((True, False), repeat=3)))
def test_double_backward(name: str, present: tuple[bool, ...]) -> None:
    case = CASES[name]
    vectors, grad_output = tangents_of(case), case.like_output()
    vectors = tuple(each if want else None for each, want in zip(vectors, present, strict=True))
    results = double_backward(case, grad_output, vectors)
    along = zeros_like(case, vectors)
    np.testing.assert_allclose(results[0], jvp(case, vectors), 1e-12, 1e-12)
    # Second derivatives are symmetric: the gradient of the derivative along the cotangents is the
    # derivative of the gradient along them.
    up, down = (backward(moved(case, along, step), grad_output) for step in (STEP, -STEP))
    for result, above, below in zip(results[1:], up, down, strict=True):
        slope = (above - below) / (2 * STEP)
        np.testing.assert_allclose(result, slope, 1e-7, 1e-7 * (1 + np.abs(slope).max()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str) -> None:
    case = packed(dcnv3().cast(dtype, "float32"))
    vectors, grad_output = tangents_of(case), case.like_output()
    wide = SumCase(case.g, case.input.astype(np.float32), case.offset, case.mask)
    wider = (vectors[0].astype(np.float32), *vectors[1:])
    pairs = [(jvp(case, vectors), jvp(wide, wider))]
    pairs += zip(
        double_backward(case, grad_output, vectors),
        double_backward(wide, grad_output.astype(np.float32), wider),
        strict=True,
    )
    for half, single in pairs:
        np.testing.assert_array_equal(half, single.astype(half.dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coordinates_that_are_not_finite(bad: float) -> None:
    case = attention()
    case.offset[1, 2, 0, 1, 3, 0] = bad
    vectors, grad_output = tangents_of(case), case.like_output()
    lost = np.isnan(bad)
    wrong = np.isnan(jvp(case, vectors))
    assert wrong[1, 2, 0, 1].all() == lost
    assert wrong.sum() == lost * case.g.channels
    results = double_backward(case, grad_output, vectors)
    assert np.isfinite(results[1]).all()
    assert np.isnan(results[2]).sum() == 2 * lost
    assert np.isnan(results[3]).sum() == lost


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_threads_and_workspace_change_no_bit(dtype: str) -> None:
    case = dcnv3(batch=3, channels=33).cast(dtype)
    vectors, grad_output = tangents_of(case), case.like_output()
    bytes_of_four = 4 * 4 * (6 * case.g.taps + case.g.channels) * case.g.groups * 2
    one = Options(num_threads=1)
    expected = jvp(case, vectors, one), *double_backward(case, grad_output, vectors, one)
    for options in (Options(num_threads=3), Options(workspace_limit=bytes_of_four)):
        some = jvp(case, vectors, options), *double_backward(case, grad_output, vectors, options)
        for a, b in zip(some, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_empty() -> None:
    case = attention(queries=0)
    vectors = tangents_of(case)
    assert jvp(case, vectors).size == 0
    results = double_backward(case, case.like_output(), vectors)
    assert not any(each.any() for each in results)
