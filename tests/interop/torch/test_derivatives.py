"""Derivatives of tensors in every mode: correct, or a clear error, never silent zeros."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from support.torchcases import (
    CASE,
    NAMES,
    SIZES,
    STATIC_ARGS,
    close,
    convolve,
    ones_of_output,
    quiet,
    tensors,
    torch,
)

import cudeform
from cudeform import engine

from torch.autograd import forward_ad, gradcheck, gradgradcheck  # isort: skip
from torch.func import grad, hessian, jacfwd, jacrev, jvp  # isort: skip

pytestmark = quiet

# torchvision checks with and without a mask, over contiguous and other tensors.
VARIANTS = list(product((5, 4, 3), (True, False)))


@pytest.mark.parametrize(("count", "contiguous"), VARIANTS)
def test_gradcheck(torch_device: Any, count: int, contiguous: bool) -> None:
    operands = tensors(torch_device, grad=True)[:count]

    def function(*given: Any) -> Any:
        if not contiguous:
            given = tuple(t.transpose(0, -1).contiguous().transpose(0, -1) for t in given)
        return convolve(*given)

    checks = {"check_forward_ad": True, "check_batched_grad": True, "fast_mode": not contiguous}
    assert gradcheck(
        function, operands, check_batched_forward_grad=True, nondet_tol=1e-10, **checks
    )


def test_gradcheck_of_each_operand(torch_device: Any) -> None:
    for which, name in enumerate(NAMES):
        operands = tensors(torch_device)
        operands[which].requires_grad_()
        assert gradcheck(convolve, operands, check_forward_ad=True, nondet_tol=1e-10), name


@pytest.mark.promise("differentiable twice")
@pytest.mark.parametrize("count", [5, 4, 3])
def test_gradgradcheck(torch_device: Any, count: int) -> None:
    operands = tensors(torch_device, grad=True)[:count]
    checks = {"check_fwd_over_rev": True, "check_batched_grad": True, "nondet_tol": 1e-10}
    assert gradgradcheck(convolve, operands, fast_mode=count < 5, **checks)


def test_gradgradcheck_of_each_operand(torch_device: Any) -> None:
    for which in range(len(NAMES)):
        operands = tensors(torch_device)
        operands[which].requires_grad_()

        def squared(*given: Any) -> Any:
            return convolve(*given).pow(2)

        checks = {"check_fwd_over_rev": True, "fast_mode": True, "nondet_tol": 1e-10}
        assert gradgradcheck(squared, operands, **checks)


def loss_of(which: int, device: Any) -> tuple[Any, Any]:
    """A loss as a function of one operand, and that operand."""
    operands = tensors(device)

    def loss(operand: Any) -> Any:
        given = [*operands[:which], operand, *operands[which + 1 :]]
        return convolve(*given).pow(2).sum()

    return loss, operands[which]


@pytest.mark.parametrize("which", range(5), ids=NAMES)
def test_func_transforms(torch_device: Any, which: int) -> None:
    loss, operand = loss_of(which, torch_device)
    leaf = operand.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    assert wanted.abs().sum() > 0
    for transform in (grad, jacfwd, jacrev):
        assert torch.allclose(transform(loss)(operand), wanted)
    direction = torch.linspace(-1, 1, operand.numel(), dtype=operand.dtype).view_as(operand)
    direction = direction.to(torch_device)
    value, slope = jvp(loss, (operand,), (direction,))
    assert torch.allclose(value, loss(operand))
    assert torch.allclose(slope, (wanted * direction).sum())
    (along,) = torch.autograd.grad((wanted * direction).sum(), leaf)
    whole = hessian(loss)(operand).reshape(operand.numel(), operand.numel())
    assert torch.allclose(whole @ direction.flatten(), along.flatten())


def test_second_derivatives_agree_in_all_combinations_of_modes() -> None:
    loss, offset = loss_of(1, "cpu")
    wanted = jacrev(jacrev(loss))(offset)
    assert wanted.abs().sum() > 0
    assert torch.allclose(jacfwd(jacrev(loss))(offset), wanted)
    assert torch.allclose(jacrev(jacfwd(loss))(offset), wanted)


def test_the_gradient_of_a_jvp_in_its_tangents_is_the_backward(torch_device: Any) -> None:
    operands = tuple(tensors(torch_device))
    directions = tuple(torch.full_like(t, 0.5) for t in operands)
    factor = torch.tensor(CASE.grad_output, device=torch_device)

    def along(*directions: Any) -> Any:
        return (jvp(convolve, operands, directions)[1] * factor).sum()

    leaves = [t.clone().requires_grad_() for t in operands]
    wanted = torch.autograd.grad((convolve(*leaves) * factor).sum(), leaves)
    assert close(grad(along, tuple(range(5)))(*directions), wanted)


def test_an_unused_gradient_costs_no_second_derivative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[list[str]] = []
    double_backward = engine.double_backward

    def spy(*args: Any) -> None:
        used.append([name for name, array in args[4]._asdict().items() if array is not None])
        double_backward(*args)

    monkeypatch.setattr(engine, "double_backward", spy)
    operands = tensors("cpu", grad=True)
    grads = torch.autograd.grad(convolve(*operands).sum(), operands, create_graph=True)
    torch.autograd.grad(grads[2].sum(), operands[1])
    assert used == [["weight"]]


def test_third_derivatives_and_forward_of_forward_are_refused() -> None:
    loss, offset = loss_of(1, "cpu")
    with pytest.raises(NotImplementedError, match="third derivatives"):
        grad(lambda o: grad(lambda o: grad(loss)(o).sum())(o).sum())(offset)
    leaf = offset.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(second.sum(), leaf)
    with pytest.raises(NotImplementedError, match="forward mode of forward mode"):
        jacfwd(jacfwd(loss))(offset)


def test_an_operator_called_by_name_drops_no_tangent() -> None:
    input, offset, weight, bias, mask = tensors("cpu")
    call = torch.ops.cudeform.deform_conv2d
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(offset, torch.ones_like(offset))
        with pytest.raises(NotImplementedError, match=r"through cudeform.deform_conv2d"):
            call(input, dual, weight, bias, mask, STATIC_ARGS)
        assert forward_ad.unpack_dual(convolve(input, dual, weight)).tangent.abs().sum() > 0
    with pytest.raises(RuntimeError, match="setup_context"):
        grad(lambda o: call(input, o, weight, bias, mask, STATIC_ARGS).sum())(offset)


def test_backward_of_tensors_is_differentiable(torch_device: Any) -> None:
    input, offset, weight, bias, mask = tensors(torch_device, grad=True)
    ones = ones_of_output(torch_device)
    grads = cudeform.deform_conv2d_backward(ones, input, offset, weight, bias, mask=mask, **SIZES)
    assert isinstance(grads, cudeform.Gradients)
    output = convolve(input, offset, weight, bias, mask)
    wanted = torch.autograd.grad(
        output.sum(), (input, offset, weight, bias, mask), create_graph=True
    )
    assert close(grads, wanted)
    (second,) = torch.autograd.grad(grads.weight.pow(2).sum(), offset)
    (true,) = torch.autograd.grad(wanted[2].pow(2).sum(), offset)
    assert true.abs().sum() > 0
    assert torch.allclose(second, true)


def test_the_other_functions_take_tensors(torch_device: Any) -> None:
    operands = tensors(torch_device)
    arrays = [t.cpu().numpy() for t in operands]
    factors = dict(zip(NAMES, (1.0, -0.5, 2.0, 3.0, 0.25), strict=True))
    tangents = cudeform.Tangents(
        *(f * torch.ones_like(t) for f, t in zip(factors.values(), operands, strict=True))
    )
    plain = cudeform.Tangents(*(t.cpu().numpy() for t in tangents))
    got = cudeform.deform_conv2d_jvp(tangents, *operands[:4], mask=operands[4], **SIZES)
    wanted = cudeform.deform_conv2d_jvp(plain, *arrays[:4], mask=arrays[4], **SIZES)
    np.testing.assert_allclose(got.cpu(), wanted, rtol=1e-10, atol=1e-12)

    upstream = torch.tensor(CASE.grad_output, device=torch_device)
    needs = ("offset", "mask")
    second = cudeform.deform_conv2d_double_backward(
        tangents, upstream, *operands[:4], mask=operands[4], needs=needs, **SIZES
    )
    expected = cudeform.deform_conv2d_double_backward(
        plain, upstream.cpu().numpy(), *arrays[:4], mask=arrays[4], needs=needs, **SIZES
    )
    assert second.input is second.grad_output is second.weight is None
    for name in needs:
        mine, true = getattr(second, name), getattr(expected, name)
        np.testing.assert_allclose(mine.cpu(), true, rtol=1e-10, atol=1e-10)
