"""Each element of each gradient is the slope of the output."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import ASYMMETRIC, Case, build
from reference import reference

import cudeform

STEP = 2.0**-8


def away_from_whole_coordinates(case: Case) -> Case:
    """Displacements whose fraction stays between 0.05 and 0.95: no step crosses a cell's edge."""
    whole = np.floor(case.offset)
    return replace(case, offset=whole + 0.05 + 0.9 * (case.offset - whole))


CASES = [
    away_from_whole_coordinates(case)
    for case in (
        build("slopes, asymmetric", **ASYMMETRIC),
        build("slopes, square", batch=1, channels=2, size=(4, 3), padding=((1, 2), (0, 1))),
        build("slopes, large", batch=1, channels=2, kernel=(2, 2), size=(4, 4), offset="large"),
    )
]


def slopes(case: Case, name: str, forward: Any) -> Any:
    """Central differences: exact, for the output is linear in any one element of an array."""
    array = getattr(case, name)
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        there = []
        for step in (STEP, -STEP):
            changed = array.copy()
            changed[index] += step
            there.append(forward(**{**case.arguments, name: changed}))
        result[index] = ((there[0] - there[1]) * case.grad_output).sum() / (2 * STEP)
    return result


@pytest.mark.parametrize("name", ["input", "offset", "weight", "bias", "mask"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("boundary_grad", ["one_sided", "zero"])
def test_gradient_is_the_slope(case: Case, name: str, boundary_grad: Any) -> None:
    with cudeform.options(boundary_grad=boundary_grad):
        grads = cudeform.deform_conv2d_backward(**case.backward_arguments, needs=(name,))
    wanted = slopes(case, name, cudeform.deform_conv2d)
    np.testing.assert_allclose(getattr(grads, name), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["input", "offset", "weight", "bias", "mask"])
def test_the_reference_too(name: str) -> None:
    case = away_from_whole_coordinates(
        build("slopes, tiny", batch=1, channels=2, size=(3, 2), kernel=(2, 1), out_channels=2)
    )
    grads = reference(**case.backward_arguments)
    wanted = slopes(case, name, lambda **arguments: reference(**arguments)["output"].value)
    np.testing.assert_allclose(grads[name].value, wanted, rtol=1e-9, atol=1e-9)
