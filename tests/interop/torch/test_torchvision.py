"""The results of ``torchvision.ops``, on the cases of its own tests, on every device."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from cases import ASYMMETRIC, build
from support.torchcases import NAMES, close, quiet, tensors, torch

import cudeform

ops = pytest.importorskip("torchvision").ops

pytestmark = quiet

GIVEN: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1)}
CASES = {batch: build("torchvision", **ASYMMETRIC, batch=batch) for batch in (0, 1, 33)}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-3, torch.float16: 2e-2}  # torchvision's own


def both(operands: list[Any]) -> tuple[Any, Any]:
    """Outputs of both libraries: ours, and theirs of the same tensors."""
    input, offset, weight, bias, mask = operands
    mine = cudeform.deform_conv2d(input, offset, weight, bias, mask=mask, **GIVEN)
    return mine, ops.deform_conv2d(input, offset, weight, bias, mask=mask, **GIVEN)


def of(batch: int, device: Any, dtype: Any, *, with_mask: bool, contiguous: bool) -> list[Any]:
    operands: list[Any] = [t.to(dtype) for t in tensors(device, CASES[batch])]
    if not contiguous:
        operands = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in operands]
    operands = [t.detach().requires_grad_() for t in operands]
    if not with_mask:
        operands[4] = None
    return operands


VARIANTS = list(product((0, 1, 33), (True, False), (True, False)))


@pytest.mark.promise("drop-in")
@pytest.mark.parametrize(("batch", "with_mask", "contiguous"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward_and_backward(
    torch_device: Any, batch: int, with_mask: bool, contiguous: bool, dtype: Any
) -> None:
    operands = of(batch, torch_device, dtype, with_mask=with_mask, contiguous=contiguous)
    mine, theirs = both(operands)
    bounds = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    assert (mine.dtype, mine.device) == (theirs.dtype, theirs.device)
    assert torch.allclose(mine, theirs, **bounds)
    leaves = [t for t in operands if t is not None]
    upstream = torch.randn_like(theirs)
    pairs = zip(
        torch.autograd.grad(mine, leaves, upstream),
        torch.autograd.grad(theirs, leaves, upstream),
        strict=True,
    )
    for name, (one, other) in zip(NAMES, pairs, strict=False):
        assert torch.allclose(one, other, **bounds), name


@pytest.mark.promise("drop-in")
def test_defaults_and_positions_of_the_arguments(torch_device: Any) -> None:
    input, weight = torch.randn(2, 4, 6, 5), torch.randn(3, 4, 3, 3)
    offset, mask, bias = torch.randn(2, 18, 4, 3), torch.rand(2, 9, 4, 3), torch.randn(3)
    given = [t.to(torch_device) for t in (input, offset, weight, bias, mask)]
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        (given[:3], {}),
        (given[:4], {}),
        ([*given[:4], 1, 0, 1, given[4]], {}),
        (given[:3], {"mask": given[4]}),
    ]
    for args, kwargs in calls:
        mine, theirs = cudeform.deform_conv2d(*args, **kwargs), ops.deform_conv2d(*args, **kwargs)
        assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("half_which", range(5), ids=NAMES)
def test_autocast(torch_device: Any, half_which: int) -> None:
    if torch_device.type == "cpu":
        pytest.skip("torchvision has no rule for autocast on the CPU")
    operands = [t.float() for t in tensors(torch_device, CASES[1])]
    operands[half_which] = operands[half_which].half()
    with torch.autocast("cuda", dtype=torch.float16):
        mine, theirs = both(operands)
    assert mine.dtype == theirs.dtype
    assert torch.allclose(mine.float(), theirs.float(), rtol=2e-2, atol=2e-2)


def test_calls_that_torchvision_refuses_are_refused(torch_device: Any) -> None:
    input, offset, weight, bias, mask = tensors(torch_device, CASES[1])
    for wrong in (
        [input, offset[:, :2], weight, bias, mask],
        [input, offset, weight, bias, mask[:, :2]],
        [input, offset[..., :1], weight, bias, mask],
        [input[0], offset, weight, bias, mask],
        [input[:, :4], offset, weight, bias, mask],
    ):
        with pytest.raises(ValueError, match="must"):
            cudeform.deform_conv2d(*wrong[:4], mask=wrong[4], **GIVEN)
        with pytest.raises((RuntimeError, ValueError)):
            ops.deform_conv2d(*wrong[:4], mask=wrong[4], **GIVEN)


def test_func_transforms_of_each_other_agree() -> None:
    operands = tensors("cpu", CASES[1])

    def loss(function: Any) -> Any:
        def of(*given: Any) -> Any:
            return function(*given[:4], mask=given[4], **GIVEN).pow(2).sum()

        return of

    every = tuple(range(5))
    mine = torch.func.grad(loss(cudeform.deform_conv2d), every)(*operands)
    leaves = [t.clone().requires_grad_() for t in operands]
    assert close(mine, torch.autograd.grad(loss(ops.deform_conv2d)(*leaves), leaves))
