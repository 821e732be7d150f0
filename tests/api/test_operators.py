"""Every operator of the table, on NumPy arrays."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from checks import assert_agrees, random_like
from support.functions import CASES, FUNCTIONS, AnyCase, definition, every, functions_of

import cudeform
from cudeform.family import OPERATORS


def test_every_operator_has_a_case() -> None:
    assert {case.operator for case in CASES} == set(OPERATORS)
    for case in CASES:  # with every operand
        assert list(case.operands) == [
            operand.public for operand in OPERATORS[case.operator].operands
        ]


@pytest.mark.parametrize("name", ["deform_conv{}d", "deform_conv_transpose{}d"])
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("which", range(4))
def test_arguments_are_those_of_two_dimensions(name: str, axes: int, which: int) -> None:
    functions = [FUNCTIONS[name.format(n)] for n in (axes, 2)]
    ours, others = (inspect.signature(each[which]).parameters for each in functions)
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in others.values()
    ]


@pytest.mark.promise("right")
@every
def test_output_and_gradients_are_the_definition(case: AnyCase) -> None:
    case = case.cast("float64")
    functions, sums = functions_of(case), definition(case)
    assert_agrees(functions.forward(**case.arguments), sums["output"], "output")
    for name, grad in functions.backward(**case.backward_arguments)._asdict().items():
        assert_agrees(grad, sums[name], name)


@pytest.mark.promise("differentiable twice")
@every
def test_derivatives_are_those_of_finite_differences(case: AnyCase) -> None:
    case = case.smooth()
    functions, along, step = functions_of(case), random_like(case.operands), 1e-5

    def stepped(sign: int) -> AnyCase:
        return case.with_operands({n: a + sign * step * along[n] for n, a in case.operands.items()})

    ahead, behind = stepped(1), stepped(-1)
    tangent = functions.jvp(functions.tangents(**along), **case.arguments)
    by_steps = functions.forward(**ahead.arguments) - functions.forward(**behind.arguments)
    np.testing.assert_allclose(tangent, by_steps / (2 * step), rtol=1e-6, atol=1e-7)

    second = functions.double_backward(
        functions.tangents(**along), **case.backward_arguments
    )._asdict()
    np.testing.assert_allclose(second.pop("grad_output"), tangent, rtol=1e-12, atol=1e-12)
    grads = [functions.backward(**each.backward_arguments) for each in (ahead, behind)]
    for name, result in second.items():
        one, two = (getattr(each, name) for each in grads)
        np.testing.assert_allclose(
            result, (one - two) / (2 * step), rtol=1e-6, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize(
    ("case", "chosen"),
    [
        pytest.param(case, chosen, id=f"{case.operator}-{'+'.join(chosen)}")
        for case in CASES
        for chosen in combinations(case.operands, 2)
    ],
)
def test_derivatives_along_some_operands_are_linear(case: AnyCase, chosen: tuple[str, ...]) -> None:
    functions, along = functions_of(case), random_like(case.operands)

    def both(names: Sequence[str]) -> list[Any]:
        tangents = functions.tangents(**{name: along[name] for name in names})
        second = functions.double_backward(tangents, **case.backward_arguments)
        return [functions.jvp(tangents, **case.arguments), *second]

    sums = [one + two for one, two in zip(*(both([name]) for name in chosen), strict=True)]
    for got, wanted in zip(both(chosen), sums, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)


@every
def test_results_do_not_depend_on_what_else_is_asked_for(case: AnyCase) -> None:
    functions = functions_of(case)
    along = functions.tangents(**random_like(case.operands))
    grads = functions.backward(**case.backward_arguments)
    for name in grads._fields:
        alone = functions.backward(**case.backward_arguments, needs=(name,))
        np.testing.assert_array_equal(getattr(alone, name), getattr(grads, name))
        assert [n for n, grad in alone._asdict().items() if grad is not None] == [name]
    second = functions.double_backward(along, **case.backward_arguments)
    for name in second._fields:
        alone = functions.double_backward(along, **case.backward_arguments, needs=(name,))
        got, wanted = getattr(alone, name), getattr(second, name)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@every
def test_options_and_needs(case: AnyCase) -> None:
    *_, last = case.operands
    with cudeform.options(workspace_limit=2**16, num_threads=1):
        grads = functions_of(case).backward(**case.backward_arguments, needs=(last,))
    assert [name for name, grad in grads._asdict().items() if grad is not None] == [last]


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
        FUNCTIONS[f"deform_conv{axes}d"].forward(np.ones(shape), np.ones(shape), np.ones(shape))


def test_padding_by_name() -> None:
    signal, offset, weight = np.ones((1, 1, 6)), np.zeros((1, 4, 6)), np.ones((1, 1, 4))
    same = cudeform.deform_conv1d(signal, offset, weight, padding="same")
    np.testing.assert_array_equal(same.ravel(), [3, 4, 4, 4, 3, 2])
