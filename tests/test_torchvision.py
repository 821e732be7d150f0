"""torchvision's own answers: output and all gradients, at the edges too."""

from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, random_cases
from hypothesis import given, settings

import cudeform

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}
NAMES = ("input", "offset", "weight", "bias", "mask")


def torchvisions(case: Case) -> dict[str, Any]:
    """Output and gradients by name, as NumPy arrays."""
    tensors = {
        name: None if array is None else torch.from_numpy(np.array(array)).requires_grad_()
        for name, array in ((name, getattr(case, name)) for name in NAMES)
    }
    (top, _), (left, _) = case.padding
    output = torchvision.ops.deform_conv2d(
        **tensors, stride=case.stride, padding=(top, left), dilation=case.dilation
    )
    output.backward(torch.from_numpy(np.array(case.grad_output)))
    grads = {n: None if t is None else t.grad.numpy() for n, t in tensors.items()}
    return {"output": output.detach().numpy(), **grads}


def assert_torchvision_agrees(case: Case) -> None:
    ours = {
        "output": cudeform.deform_conv2d(**case.arguments),
        **cudeform.deform_conv2d_backward(**case.backward_arguments)._asdict(),
    }
    tolerance = TOLERANCE[case.input.dtype.name]
    for name, wanted in torchvisions(case).items():
        if wanted is None:
            assert ours[name] is None
        else:
            np.testing.assert_allclose(
                ours[name], wanted, rtol=tolerance, atol=tolerance, err_msg=name
            )


def it_can(case: Case) -> bool:
    """Whether torchvision computes it: equal padding on both sides, finite offsets, channels."""
    same = all(before == after for before, after in case.padding)
    return same and np.isfinite(case.offset).all() and case.input.shape[1] > 0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", list(filter(it_can, CASES)), ids=lambda case: case.name)
def test_named_cases(case: Case, dtype: str) -> None:
    assert_torchvision_agrees(case.cast(dtype))


random = random_cases(offsets=("zero", "small", "large", "whole", "half", "far")).filter(it_can)


@settings(max_examples=300)
@given(random)
def test_random_cases(case: Case) -> None:
    assert_torchvision_agrees(case.cast("float64"))
