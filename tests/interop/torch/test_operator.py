"""The operators of ``torch.ops.cudeform`` pass torch.library's own checks."""

from __future__ import annotations

from typing import Any

import pytest
from support.torchcases import STATIC_ARGS, convolve, ones_of_output, quiet, tensors, torch

from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip

pytestmark = quiet

CONFIGURATIONS = [
    "plain",
    "grad",
    "no mask",
    "no bias or mask",
    "partial",
    "strides",
    "empty",
    "half",
]


def configured(what: str, device: Any) -> tuple[list[Any], Any]:
    """The operands and a gradient of the output."""
    operands: list[Any] = tensors(device, grad=what == "grad")
    grad_output = ones_of_output(device).requires_grad_(what == "grad")
    if what.startswith("no"):
        operands[4] = None
    if what == "no bias or mask":
        operands[3] = None
    if what == "partial":
        operands[1].requires_grad_()
    if what == "strides":
        operands = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in operands]
        grad_output = grad_output.transpose(2, 3).contiguous().transpose(2, 3)
    if what == "empty":
        operands = [t[:0] if i in (0, 1, 4) else t for i, t in enumerate(operands)]
        grad_output = grad_output[:0]
    if what == "half":
        operands, grad_output = [t.bfloat16() for t in operands], grad_output.bfloat16()
    return operands, grad_output


def assert_sound(operator: Any, *args: Any) -> None:
    checks = torch.library.opcheck(operator.default, args)
    assert len(checks) >= 4
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_opcheck(torch_device: Any, what: str) -> None:
    operands, _ = configured(what, torch_device)
    assert_sound(torch.ops.cudeform.deform_conv2d, *operands, STATIC_ARGS)


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_opcheck_of_the_backward(torch_device: Any, what: str) -> None:
    operands, grad_output = configured(what, torch_device)
    needs = [what != "partial", True, True, operands[3] is not None, operands[4] is not None]
    operator = torch.ops.cudeform.deform_conv2d_backward
    assert_sound(operator, grad_output, *operands, needs, STATIC_ARGS)


@pytest.mark.parametrize("what", ["plain", "grad", "no mask", "strides", "empty"])
def test_opcheck_of_the_second_order(torch_device: Any, what: str) -> None:
    operands, grad_output = configured(what, torch_device)
    without_bias = *operands[:3], operands[4]
    tangents = [None if t is None else t.detach() * 0.5 for t in operands]
    tangents[0] = None
    given = without_bias, tangents
    assert_sound(torch.ops.cudeform.deform_conv2d_jvp, *given[0], *given[1], STATIC_ARGS)
    needs = [True, False, True, True, operands[4] is not None]
    # It has no derivative to be checked.
    plain = [None if t is None else t.detach() for t in (grad_output, *without_bias)]
    operator = torch.ops.cudeform.deform_conv2d_double_backward
    assert_sound(operator, *plain, *tangents, needs, STATIC_ARGS)


def test_shapes_are_known_without_contents() -> None:
    operands = tensors("cpu", grad=True)
    wanted = convolve(*operands)
    meta = convolve(*(t.detach().to("meta") for t in operands))
    assert meta.shape == wanted.shape
    assert meta.is_meta
    plain = [t.detach() for t in operands]
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t).requires_grad_() for t in plain]
        fake = convolve(*fakes)
        grads = torch.autograd.grad(fake.sum(), fakes)
    assert (fake.shape, fake.stride(), fake.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
    assert [g.shape for g in grads] == [t.shape for t in operands]


def test_static_args_of_impossible_length_are_refused() -> None:
    with pytest.raises(ValueError, match="static_args must be 10 or 14 integers for deform_conv2d"):
        torch.ops.cudeform.deform_conv2d(*tensors("cpu"), STATIC_ARGS[:3])
