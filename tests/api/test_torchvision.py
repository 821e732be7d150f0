"""torchvision's own answers: output and all gradients, at the edges too."""

from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, random_cases
from checks import computed
from hypothesis import given

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}
NAMES = ("input", "offset", "weight", "bias", "mask")


def torchvisions(case: Case) -> dict[str, Any]:
    """Output and gradients by name, as NumPy arrays."""
    present = [name for name in NAMES if getattr(case, name) is not None]
    tensors = {n: torch.from_numpy(getattr(case, n).copy()).requires_grad_() for n in present}
    (top, _), (left, _) = case.padding
    output = torchvision.ops.deform_conv2d(
        **tensors, stride=case.stride, padding=(top, left), dilation=case.dilation
    )
    output.backward(torch.from_numpy(case.grad_output.copy()))
    grads = {name: tensor.grad.numpy() for name, tensor in tensors.items()}
    return {"output": output.detach().numpy(), **grads}


def assert_torchvision_agrees(case: Case) -> None:
    ours, theirs = computed(**case.backward_arguments), torchvisions(case)
    assert ours.keys() == theirs.keys()
    tolerance = TOLERANCE[case.input.dtype.name]
    for name, array in ours.items():
        np.testing.assert_allclose(
            array, theirs[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


def it_can(case: Case) -> bool:
    """Whether torchvision computes it: equal padding on both sides, finite offsets, channels."""
    same = all(before == after for before, after in case.padding)
    return same and np.isfinite(case.offset).all() and case.input.shape[1] > 0


@pytest.mark.promise("drop-in")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", list(filter(it_can, CASES)), ids=lambda case: case.name)
def test_named_cases(case: Case, dtype: str) -> None:
    assert_torchvision_agrees(case.cast(dtype))


random = random_cases(offsets=("zero", "small", "large", "whole", "half", "far")).filter(it_can)


@given(random)
def test_random_cases(case: Case) -> None:
    assert_torchvision_agrees(case.cast("float64"))
