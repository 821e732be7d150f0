"""The functions for one and three dimensions, on NumPy arrays."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from cases import Case
from checks import assert_agrees, random_like
from reference import reference
from support import cpu_engine
from support.functions import FUNCTIONS, every

import cudeform
from cudeform.arrays import Tangents


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("which", range(4))
def test_arguments_are_those_of_two_dimensions(axes: int, which: int) -> None:
    ours, others = (inspect.signature(FUNCTIONS[n][which]).parameters for n in (axes, 2))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in others.values()
    ]


@pytest.mark.promise("right")
@every
def test_output_and_gradients_are_the_definition(case: Case) -> None:
    case = case.cast("float64")
    functions, sums = FUNCTIONS[case.axes], reference(**case.backward_arguments)
    assert_agrees(functions.forward(**case.arguments), sums["output"], "output")
    for name, grad in functions.backward(**case.backward_arguments)._asdict().items():
        assert_agrees(grad, sums[name], name)


@every
def test_derivatives_are_the_engines(case: Case) -> None:
    functions, tangents = FUNCTIONS[case.axes], random_like(case.operands)
    got = functions.jvp(Tangents(**tangents), **case.arguments)
    np.testing.assert_array_equal(got, cpu_engine.jvp(case, tangents))
    results = functions.double_backward(Tangents(**tangents), **case.backward_arguments)
    expected = cpu_engine.double_backward(case, tangents)
    for name, result in results._asdict().items():
        np.testing.assert_array_equal(result, expected[name], err_msg=name)


@every
def test_options_and_needs(case: Case) -> None:
    with cudeform.options(workspace_limit=2**16, num_threads=1):
        grads = FUNCTIONS[case.axes].backward(**case.backward_arguments, needs=("mask",))
    assert [name for name, grad in grads._asdict().items() if grad is not None] == ["mask"]


@pytest.mark.parametrize(
    ("axes", "shape", "text"),
    [
        (1, (1, 2, 5, 5), "input must have shape (N, C, W), got (1, 2, 5, 5)"),
        (3, (1, 2, 5, 5), "input must have shape (N, C, D, H, W), got (1, 2, 5, 5)"),
    ],
)
def test_arrays_of_other_dimensions_are_refused(
    axes: int, shape: tuple[int, ...], text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        FUNCTIONS[axes].forward(np.ones(shape), np.ones(shape), np.ones(shape))


def test_padding_by_name() -> None:
    signal, offset, weight = np.ones((1, 1, 6)), np.zeros((1, 4, 6)), np.ones((1, 1, 4))
    same = cudeform.deform_conv1d(signal, offset, weight, padding="same")
    np.testing.assert_array_equal(same.ravel(), [3, 4, 4, 4, 3, 2])
