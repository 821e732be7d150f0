"""Sums of samples without a filter by the GPU engine: values against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.sums_cases import (
    OPERANDS,
    RESULTS,
    OnGpu,
    SumCase,
    attention,
    directions,
    expected,
    grid,
)

from cudeform.options import Options

CASES = {
    "attention": attention,
    "grid": grid,
    "plain grid": lambda **sizes: grid((3, 3), scale=1.0, remove_center=False, **sizes),
}
CHANNELS = (1, 3, 16, 24, 32, 64)
EPS = 1e-6


def assert_close(got: Any, wanted: Any, error: float, what: str = "") -> None:
    """Check for an error relative to the largest value."""
    atol = error * max(1e-30, abs(np.asarray(wanted, float)).max())
    got, wanted = np.asarray(got, float), np.asarray(wanted, float)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol, err_msg=what)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_are_those_of_plain_loops(
    name: str, channels: int, new_device: Any
) -> None:
    case: SumCase = CASES[name](channels=channels).cast("float32")
    wanted = expected(case)
    on = OnGpu(new_device(), case)
    assert_close(on.output(), wanted["output"], 2e-6)
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("name", CASES)
def test_tangents_and_second_order_are_finite_differences(
    name: str, channels: int, deterministic: bool, new_device: Any
) -> None:
    case: SumCase = CASES[name](channels=channels)
    on = OnGpu(new_device(), case, Options(deterministic=deterministic))
    along = directions(case)

    def moved(arrays: Any, step: float) -> OnGpu:
        changed = {n: getattr(case, n) + step * array for n, array in arrays.items()}
        return OnGpu(on.device, SumCase(case.g, case.arrays | changed), on.options)

    ends = [moved(along, step) for step in (EPS, -EPS)]
    tangent = on.jvp(along)
    assert_close(tangent, (ends[0].output() - ends[1].output()) / (2 * EPS), 1e-7)

    results = on.double(along)
    assert_close(results["grad_output"], tangent, 1e-15)
    # sum(along * grads) is symmetric in its arguments: its gradient is a difference along `along`.
    grads = [end.grads() for end in ends]
    for operand in OPERANDS:
        wanted = (grads[0][operand] - grads[1][operand]) / (2 * EPS)
        assert_close(results[operand], wanted, 1e-7, operand)
    assert set(results) == set(RESULTS)
