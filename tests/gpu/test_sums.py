"""Sums of samples by the GPU engine: values against plain loops and differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.canonical_sums import (
    OPERANDS,
    PLAIN_GRID,
    RESULTS,
    CanonicalSum,
    assert_close,
    attention,
    dcnv3,
    directions,
    expected,
)
from support.gpu_sums import OnGpu

from cudeform.options import Options

CASES = {
    "attention": attention,
    "dcnv3": dcnv3,
    "plain grid": lambda **sizes: dcnv3(PLAIN_GRID, **sizes),
}
CHANNELS = (1, 3, 16, 24, 32, 64)
EPS = 1e-6


@pytest.mark.each_value
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_are_those_of_plain_loops(
    name: str, channels: int, new_device: Any
) -> None:
    case: CanonicalSum = CASES[name](channels=channels).cast("float32")
    wanted = expected(case)
    on = OnGpu(new_device(), case)
    assert_close(on.output(), wanted["output"], 2e-6)
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)


@pytest.mark.promise("differentiable twice")
@pytest.mark.each_value
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("name", CASES)
def test_tangents_and_second_order_are_finite_differences(
    name: str, channels: int, deterministic: bool, new_device: Any
) -> None:
    case: CanonicalSum = CASES[name](channels=channels)
    on = OnGpu(new_device(), case, Options(deterministic=deterministic))
    along = directions(case)

    def stepped(arrays: Any, step: float) -> OnGpu:
        changed = {n: getattr(case, n) + step * array for n, array in arrays.items()}
        return OnGpu(on.device, replace(case, **changed), on.options)

    ends = [stepped(along, step) for step in (EPS, -EPS)]
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


@pytest.mark.each_value
@pytest.mark.parametrize("coord_dtype", ["float32", None])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("channels", [16, 24, 3])
def test_coordinates_may_be_float32_beside_halves(
    channels: int, dtype: str, coord_dtype: str | None, new_device: Any
) -> None:
    case = attention(channels=channels).cast(dtype, coord_dtype)
    wanted, on = expected(case), OnGpu(new_device(compute_capability=90), case)
    error = 2**-8 if dtype == "bfloat16" else 2**-11
    assert_close(on.output(), wanted["output"], error)
    for operand, grad in on.grads().items():
        assert grad.dtype == getattr(case, operand).dtype
        mixed = operand != "input" and coord_dtype is not None
        assert_close(grad, wanted[operand], 4e-6 if mixed else error, operand)


@pytest.mark.parametrize("wanted", [("input",), ("offset",), ("mask",), ()])
def test_gradients_that_are_not_wanted(wanted: tuple[str, ...], new_device: Any) -> None:
    case = attention(channels=8).cast("float32")
    on = OnGpu(new_device(), case)
    every, along = expected(case), directions(case, ("offset",))
    for operand, grad in on.grads(wanted).items():
        assert_close(grad, every[operand], 4e-6)
    some, double = on.double(along, wanted), on.double(along)
    for operand, grad in some.items():
        assert_close(grad, double[operand], 1e-6)
