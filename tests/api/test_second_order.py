"""Forward mode and gradients of gradients agree with finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import OPERANDS, Case, build
from checks import random_like

import cudeform
from cudeform.arrays import Gradients, Tangents

# Displacements on a grid whose coordinates keep away from whole numbers, where there is a kink.
CASES = [
    build("groups", channels=6, groups=2, offset_groups=3, out_channels=4, offset="small"),
    build("vectors", channels=8, offset_groups=2, out_channels=5, size=(6, 7), offset="small"),
    build("plain", channels=3, out_channels=2, mask=False, bias=False, offset="small"),
]


def off_the_grid(case: Case) -> Case:
    offset = np.floor(case.offset * 8) / 8 + 1 / 16
    return replace(case, offset=offset)


def displaced(case: Case, direction: dict[str, Any], by: float) -> Case:
    return replace(case, **{n: getattr(case, n) + by * d for n, d in direction.items()})


def slope(function: Any, case: Case, direction: dict[str, Any]) -> Any:
    step = 1e-5
    return (
        function(displaced(case, direction, step)) - function(displaced(case, direction, -step))
    ) / (2 * step)


def output(case: Case) -> Any:
    return cudeform.deform_conv2d(**case.arguments)


def weighted_gradients(weights: dict[str, Any]) -> Any:
    """The number whose gradients are the double backward."""

    def total(case: Case) -> float:
        grads = cudeform.deform_conv2d_backward(**case.backward_arguments)
        return sum(float((weights[name] * getattr(grads, name)).sum()) for name in weights)

    return total


@pytest.mark.promise("differentiable twice")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("only", [None, *OPERANDS])
def test_jvp_is_the_slope_of_the_output(case: Case, only: str | None) -> None:
    case = off_the_grid(case)
    tangents = random_like({n: a for n, a in case.operands.items() if only in (None, n)})
    got = cudeform.deform_conv2d_jvp(Tangents(**tangents), **case.arguments)
    np.testing.assert_allclose(got, slope(output, case, tangents), rtol=1e-7, atol=1e-8)


@pytest.mark.promise("differentiable twice")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("only", [None, *OPERANDS])
def test_double_backward_is_the_slope_of_the_gradients(case: Case, only: str | None) -> None:
    case = off_the_grid(case)
    weights = random_like({n: a for n, a in case.operands.items() if only in (None, n)})
    results = cudeform.deform_conv2d_double_backward(
        Gradients(**weights), **case.backward_arguments
    )
    total = weighted_gradients(weights)
    for name, result in results._asdict().items():
        if result is None:
            assert name == "mask"
            assert case.mask is None
            continue
        direction = random_like({name: getattr(case, name)}, seed=1)
        expected = slope(total, case, direction)
        assert float((result * direction[name]).sum()) == pytest.approx(
            expected, rel=1e-6, abs=1e-7
        )


def test_jvp_and_backward_are_transposes_of_each_other() -> None:
    # Also at whole coordinates and at -1, where the derivative is a convention.
    case = build("edges", channels=4, out_channels=3, offset="half")
    tangents = random_like(case.operands)
    for rule in ("one_sided", "zero"):
        with cudeform.options(boundary_grad=rule):
            tangent = cudeform.deform_conv2d_jvp(Tangents(**tangents), **case.arguments)
            total = weighted_gradients(tangents)(case)
        assert float((case.grad_output * tangent).sum()) == pytest.approx(total, rel=1e-12)


def test_needs_leaves_the_others_out() -> None:
    case = CASES[0]
    weights = Gradients(**random_like(case.operands))
    every = cudeform.deform_conv2d_double_backward(weights, **case.backward_arguments)
    for name in every._fields:
        some = cudeform.deform_conv2d_double_backward(
            weights, **case.backward_arguments, needs=(name,)
        )
        assert [n for n, a in some._asdict().items() if a is not None] == [name]
        np.testing.assert_allclose(getattr(some, name), getattr(every, name), rtol=1e-12)


def test_no_tangent_gives_zeros() -> None:
    case = CASES[0]
    assert not cudeform.deform_conv2d_jvp(Gradients(), **case.arguments).any()
    results = cudeform.deform_conv2d_double_backward(Gradients(), **case.backward_arguments)
    assert not any(result.any() for result in results)


def test_wrong_tangents_are_refused() -> None:
    case = CASES[2]
    with pytest.raises(TypeError, match=r"tangents must be a cudeform.Tangents, got dict"):
        cudeform.deform_conv2d_jvp({"input": case.input}, **case.arguments)
    with pytest.raises(ValueError, match="tangent of bias must be None, for bias is None"):
        cudeform.deform_conv2d_jvp(Gradients(bias=np.ones(2)), **case.arguments)
    with pytest.raises(ValueError, match=r"tangent of input must have the shape of input, .* got"):
        cudeform.deform_conv2d_jvp(Gradients(input=case.input[:, 1:]), **case.arguments)
