"""The errors in half precision are those of rounding operands, columns and results once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, Case, build
from checks import computed
from support.gpu_engine import TestDevice, everything

from cudeform.options import Options

CASES = [
    build("one group", channels=32, size=(16, 15), out_channels=24, padding=((1, 1), (1, 1))),
    build("groups", channels=24, size=(15, 16), out_channels=6, groups=3, offset_groups=2, batch=3),
]


def exact(case: Case) -> dict[str, Any]:
    """Output and gradients in float64."""
    return computed(**case.map(lambda array: array.astype(np.float64)).backward_arguments)


def columns_as_output(case: Case, weight: Any) -> Case:
    """The case in float64 with a weight whose output is the columns, (channel, tap)."""
    channels, (kernel_h, kernel_w) = case.input.shape[1], weight.shape[2:]
    taps = kernel_h * kernel_w
    identity = np.tile(np.eye(taps).reshape(taps, 1, kernel_h, kernel_w), (channels, 1, 1, 1))
    wide = case.map(lambda array: array.astype(np.float64))
    return replace(wide, weight=identity, bias=None, grad_output=None)


def rounded(case: Case, dtype: Any) -> dict[str, Any]:
    """Output and gradients, exact except that columns, their gradient and results are rounded."""
    wide = case.map(lambda array: array.astype(np.float64))
    groups = case.input.shape[1] // case.weight.shape[1]
    batch, out_channels, out_h, out_w = case.grad_output.shape
    unmixed = columns_as_output(case, case.weight)
    columns = computed(**unmixed.arguments)["output"].astype(dtype).astype(np.float64)
    columns = columns.reshape(batch, groups, -1, out_h * out_w)
    filters = wide.weight.reshape(groups, out_channels // groups, -1)
    grad_output = wide.grad_output.reshape(batch, groups, out_channels // groups, -1)
    output = np.einsum("gok,ngkp->ngop", filters, columns).reshape(case.grad_output.shape)
    grad_weight = np.einsum("ngop,ngkp->gok", grad_output, columns)
    grad_columns = (
        np.einsum("ngop,gok->ngkp", grad_output, filters).astype(dtype).astype(np.float64)
    )
    unmixed = replace(unmixed, grad_output=grad_columns.reshape(batch, -1, out_h, out_w))
    results = computed(**unmixed.backward_arguments) | {
        "output": output + wide.bias[:, None, None],
        "weight": grad_weight.reshape(case.weight.shape),
        "bias": wide.grad_output.sum((0, 2, 3)),
    }
    return {name: array.astype(dtype) for name, array in results.items()}


def error(array: Any, wanted: Any) -> float:
    return float(np.sqrt(np.mean((array.astype(np.float64) - wanted) ** 2)))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_more_error_than_a_rounding_each(
    new_device: Callable[..., TestDevice], case: Case, dtype: str, deterministic: bool
) -> None:
    case = case.cast(dtype)
    wanted, model = exact(case), rounded(case, DTYPES[dtype])
    results = everything(new_device(), case, Options(deterministic=deterministic))
    assert results.keys() == wanted.keys() == model.keys()
    for name, array in results.items():
        unavoidable = error(model[name], wanted[name])
        assert 0 < error(array, wanted[name]) < 1.05 * unavoidable, name
        # Sums in float32 rarely round to another neighbour, so nearly all bits are the model's.
        assert np.mean(array.view(np.uint16) == model[name].view(np.uint16)) > 0.97, name
