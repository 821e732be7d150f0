"""Tensors in one and three dimensions: every way that torch calls, differentiates and compiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from support.functions import FUNCTIONS, every, settings
from support.torchcases import quiet, tensors, torch

from torch.autograd import gradcheck, gradgradcheck  # isort: skip

pytestmark = quiet


def function_of(case: Case) -> Any:
    """The operator of operands in order, with the sizes of a case."""

    def function(input: Any, offset: Any, weight: Any, bias: Any, mask: Any) -> Any:
        call = FUNCTIONS[case.axes].forward
        return call(input, offset, weight, bias, mask=mask, **settings(case))

    return function


@pytest.mark.promise("any array")
@every
def test_results_are_those_of_numpy(case: Case) -> None:
    there = case.map(torch.tensor)
    functions = FUNCTIONS[case.axes]
    output = functions.forward(**there.arguments)
    np.testing.assert_array_equal(output, functions.forward(**case.arguments))
    grads = functions.backward(**there.backward_arguments)
    wanted = functions.backward(**case.backward_arguments)
    for got, want in zip(grads, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.promise("differentiable twice")
@every
def test_derivatives(case: Case) -> None:
    operands = tensors("cpu", case, grad=True)
    function, fast = function_of(case), {"fast_mode": True, "nondet_tol": 1e-10}
    assert gradcheck(function, operands, check_forward_ad=True, check_batched_grad=True, **fast)
    assert gradgradcheck(function, operands, **fast)


@every
def test_compiled_and_mapped(case: Case) -> None:
    operands, function = tensors("cpu", case), function_of(case)
    expected = function(*operands)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*operands), expected)
    examples = torch.stack([operands[0], operands[0] / 2])
    mapped = torch.func.vmap(function, (0, None, None, None, None))(examples, *operands[1:])
    assert torch.allclose(mapped[0], expected)


@pytest.mark.parametrize("count", [0, 9, 12])
def test_a_list_of_another_length_is_refused(count: int) -> None:
    operands = [torch.ones(1, 1, 3), torch.zeros(1, 1, 3), torch.ones(1, 1, 1), None, None]
    with pytest.raises(ValueError, match="static_args must be"):
        torch.ops.cudeform.deform_conv2d(*operands, [-1] * (count > 0) + [1] * (count - 1))
