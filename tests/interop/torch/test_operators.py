"""Every operator on tensors: all ways in which torch calls, differentiates and compiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from checks import random_like
from support.functions import TransposedCase, every, every_slowly, functions_of
from support.torchcases import quiet, tensors, torch

from cudeform.arrays import Tangents
from cudeform.family import OPERATORS
from cudeform.interop.torch.static_args import pack

from torch.autograd import gradcheck, gradgradcheck  # isort: skip
from torch.utils.flop_counter import FlopCounterMode  # isort: skip

pytestmark = quiet


SCHEMAS = {
    "deform_conv2d": "(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "int[] static_args) -> Tensor",
    "deform_conv2d_backward": "(Tensor grad_output, Tensor input, Tensor offset, Tensor weight, "
    "Tensor? bias, Tensor? mask, bool[5] needs, int[] static_args) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "deform_conv2d_jvp": "(Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
    "Tensor? input_tangent, Tensor? offset_tangent, Tensor? weight_tangent, Tensor? bias_tangent, "
    "Tensor? mask_tangent, int[] static_args) -> Tensor",
    "deform_conv2d_double_backward": "(Tensor grad_output, Tensor input, Tensor offset, "
    "Tensor weight, Tensor? mask, Tensor? input_tangent, Tensor? offset_tangent, "
    "Tensor? weight_tangent, Tensor? bias_tangent, Tensor? mask_tangent, bool[5] needs, "
    "int[] static_args) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
}

DIMS = [
    (0, None, None, None, None),
    (1, 0, None, None, 2),
    (None, None, 1, None, None),
    (0, 0, 0, 0, 0),
    (None, None, None, 0, None),
]


def function_of(case: Case) -> Any:
    """The operator of operands in order, with the settings of a case."""
    call, settings = functions_of(case).forward, case.settings

    def function(input: Any, offset: Any, weight: Any, bias: Any, mask: Any) -> Any:
        return call(input, offset, weight, bias, mask=mask, **settings)

    return function


def overloads(name: str) -> list[Any]:
    """The four functions of an operator, for torch."""
    suffixes = ("", "_backward", "_jvp", "_double_backward")
    return [getattr(torch.ops.cudeform, f"{name}{suffix}").default for suffix in suffixes]


def static_args(case: Case) -> list[int]:
    operator = OPERATORS[case.operator]
    return list(pack(operator, operator.settings(**case.settings)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_stay(name: str) -> None:
    schema = getattr(torch.ops.cudeform, name).default._schema
    assert str(schema) == f"cudeform::{name}{SCHEMAS[name]}"


def test_every_operator_has_the_schemas_of_a_convolution() -> None:
    for name in OPERATORS:
        for ours, theirs in zip(overloads(name), overloads("deform_conv2d"), strict=True):
            assert str(ours._schema) == str(theirs._schema).replace("deform_conv2d", name)


@pytest.mark.promise("any array")
@every
def test_results_are_those_of_numpy(case: Case) -> None:
    there = case.map(torch.tensor)
    functions = functions_of(case)
    output = functions.forward(**there.arguments)
    np.testing.assert_array_equal(output, functions.forward(**case.arguments))
    grads = functions.backward(**there.backward_arguments)
    wanted = functions.backward(**case.backward_arguments)
    for got, want in zip(grads, wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    along = random_like(case.operands)
    tangents = Tangents(**{name: torch.tensor(array) for name, array in along.items()})
    got = [functions.jvp(tangents, **there.arguments)]
    got += functions.double_backward(tangents, **there.backward_arguments)
    wanted = [functions.jvp(Tangents(**along), **case.arguments)]
    wanted += functions.double_backward(Tangents(**along), **case.backward_arguments)
    for result, want in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(result, want)


@pytest.mark.promise("differentiable twice")
@every_slowly
def test_derivatives(case: Case) -> None:
    operands = tensors("cpu", case, grad=True)
    function, fast = function_of(case), {"fast_mode": True, "nondet_tol": 1e-10}
    assert gradcheck(function, operands, check_forward_ad=True, check_batched_grad=True, **fast)
    assert gradgradcheck(function, operands, check_batched_grad=True, **fast)


@every
def test_forward_over_reverse_is_reverse_over_reverse(case: Case) -> None:
    operands, function = tensors("cpu", case), function_of(case)
    loss = lambda *given: function(*given).sin().sum()  # noqa: E731
    argnums = (0, 1, 2, 4)
    along = tuple(torch.randn_like(operands[n]) for n in argnums)

    def gradient(*chosen: Any) -> Any:
        given = [*operands]
        for n, tensor in zip(argnums, chosen, strict=True):
            given[n] = tensor
        return torch.func.grad(loss, argnums)(*given)

    primals = tuple(operands[n] for n in argnums)
    _, forward = torch.func.jvp(gradient, primals, along)
    reverse = torch.func.vjp(gradient, *primals)[1](along)
    for one, two in zip(forward, reverse, strict=True):
        assert torch.allclose(one, two)


@every_slowly
def test_opcheck(case: Case) -> None:
    operands, static = tensors("cpu", case, grad=True), static_args(case)
    plain = [tensor.detach() for tensor in operands]
    grad_output = torch.tensor(case.grad_output, requires_grad=True)
    forward, backward, jvp, double_backward = overloads(case.operator)
    without_bias, tangents = [*plain[:3], plain[4]], [tensor * 0.5 for tensor in plain]
    for operator, arguments in (
        (forward, (*operands, static)),
        (backward, (grad_output, *operands, [True] * 5, static)),
        (jvp, (*operands[:3], operands[4], *tangents, static)),
        (double_backward, (grad_output.detach(), *without_bias, *tangents, [True] * 5, static)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


@every_slowly
def test_compiled(case: Case) -> None:
    operands, function = tensors("cpu", case, grad=True), function_of(case)
    expected = function(*operands)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*operands), expected)
    grads = torch.autograd.grad(compiled(*operands).sum(), operands)
    for got, want in zip(grads, torch.autograd.grad(expected.sum(), operands), strict=True):
        assert torch.allclose(got, want)


@every_slowly
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_vmap_is_a_loop(case: Case, dims: tuple[int | None, ...]) -> None:
    function, operands = function_of(case), tensors("cpu", case)
    many = [
        tensor if dim is None else torch.stack([tensor, tensor / 2, -tensor], dim)
        for tensor, dim in zip(operands, dims, strict=True)
    ]

    def loss(*given: Any) -> Any:
        return function(*given).sin().sum()

    for mapped in (function, torch.func.grad(loss, (0, 1, 2, 3, 4))):
        got = torch.func.vmap(mapped, dims)(*many)
        for i in range(3):
            pairs = zip(many, dims, strict=True)
            wanted = mapped(*(t if dim is None else t.select(dim, i) for t, dim in pairs))
            if mapped is function:
                assert torch.allclose(got[i], wanted)
                continue
            for one, two in zip(got, wanted, strict=True):
                assert torch.allclose(one[i], two)


@every
def test_flops_are_those_of_a_convolution_of_the_same_size(case: Case) -> None:
    operands = tensors("cpu", case, grad=True)
    positions = operands[1].shape[0] * operands[1].shape[2:].numel()
    product = 2 * positions * operands[2].numel()
    with FlopCounterMode(display=False) as counter:
        output = function_of(case)(*operands)
    assert counter.get_total_flops() == product
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(output.sum(), operands)
    parts = 3 if isinstance(case, TransposedCase) else 2
    assert counter.get_total_flops() == parts * product


@every
def test_zero_offsets_are_torchs_own_function(case: Case) -> None:
    input, offset, weight, bias, _ = tensors("cpu", case)
    settings = {
        name: value
        for name, value in case.settings.items()
        if name in ("stride", "dilation", "output_padding", "groups")
    }
    settings.setdefault("groups", input.shape[1] // weight.shape[1])
    ours = {**case.settings, "padding": 0}
    got = functions_of(case).forward(input, *no_offset(case, offset), weight, bias, **ours)
    name = case.operator.removeprefix("deform_")
    wanted = getattr(torch.nn.functional, name)(input, weight, bias, **settings)
    assert torch.allclose(got, wanted)


def no_offset(case: Case, offset: Any) -> tuple[Any]:
    """A zero offset for a call without padding."""
    if isinstance(case, TransposedCase):
        return (torch.zeros_like(offset),)
    sizes = zip(
        case.input.shape[2:], case.weight.shape[2:], case.stride, case.dilation, strict=True
    )
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes]
    return (offset.new_zeros(*offset.shape[:2], *out),)


@pytest.mark.parametrize("count", [0, 5, 11])
def test_a_list_of_another_length_is_refused(count: int) -> None:
    operands = [torch.ones(1, 1, 3), torch.zeros(1, 1, 3), torch.ones(1, 1, 1), None, None]
    with pytest.raises(ValueError, match="static_args must be"):
        torch.ops.cudeform.deform_conv1d(*operands, [1] * count)
