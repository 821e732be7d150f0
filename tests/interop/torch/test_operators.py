"""Every operator on tensors: all ways in which torch calls, differentiates and compiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from checks import random_like
from support.functions import (
    CASES,
    CONVOLUTIONS,
    AnyCase,
    TransposedCase,
    differentiated,
    every,
    every_convolution,
    every_slowly,
    function_of_operands,
    functions_of,
    takes_long,
)
from support.torchcases import quiet, torch

from cudeform.family import OPERATORS
from cudeform.interop.torch.static_args import pack

from torch.autograd import forward_ad, gradcheck, gradgradcheck  # isort: skip
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
    "ms_deform_attn": "(Tensor value, Tensor sampling_locations, Tensor attention_weights, "
    "int[] static_args) -> Tensor",
    "dcnv4_backward": "(Tensor grad_output, Tensor input, Tensor offset_mask, bool[2] needs, "
    "int[] static_args) -> (Tensor, Tensor)",
    "dcnv3_jvp": "(Tensor input, Tensor offset, Tensor mask, Tensor? input_tangent, "
    "Tensor? offset_tangent, Tensor? mask_tangent, int[] static_args) -> Tensor",
    "ms_deform_attn_double_backward": "(Tensor grad_output, Tensor value, "
    "Tensor sampling_locations, Tensor attention_weights, Tensor? value_tangent, "
    "Tensor? sampling_locations_tangent, Tensor? attention_weights_tangent, bool[4] needs, "
    "int[] static_args) -> (Tensor, Tensor, Tensor, Tensor)",
}

# The dimension of the examples in some operands; None in the others.
DIMS: list[dict[str, int]] = [
    {"input": 0},
    {"input": 1, "offset": 0, "mask": 2},
    {"weight": 1},
    {"input": 0, "offset": 0, "weight": 0, "bias": 0, "mask": 0},
    {"bias": 0},
]


def dims_of(case: AnyCase, dims: dict[str, int]) -> tuple[int | None, ...]:
    """The dimension in each operand of a case."""
    return tuple(dims.get(operand.name) for operand in OPERATORS[case.operator].operands)


def tensors(case: AnyCase, *, grad: bool = False) -> list[Any]:
    """The operands; no coordinate is a whole number, where the output has kinks."""
    return [torch.tensor(a, requires_grad=grad) for a in case.smooth().operands.values()]


def overloads(name: str) -> list[Any]:
    """The four functions of an operator, for torch."""
    suffixes = ("", "_backward", "_jvp", "_double_backward")
    return [getattr(torch.ops.cudeform, f"{name}{suffix}").default for suffix in suffixes]


def static_args(case: AnyCase) -> list[int]:
    operator = OPERATORS[case.operator]
    return list(pack(operator, operator.settings(**case.settings)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_stay(name: str) -> None:
    schema = getattr(torch.ops.cudeform, name).default._schema
    assert str(schema) == f"cudeform::{name}{SCHEMAS[name]}"


def test_every_convolution_has_the_same_schemas() -> None:
    for name in {case.operator for case in CONVOLUTIONS}:
        for ours, theirs in zip(overloads(name), overloads("deform_conv2d"), strict=True):
            assert str(ours._schema) == str(theirs._schema).replace("deform_conv2d", name)


@pytest.mark.promise("any array")
@every
def test_results_are_those_of_numpy(case: AnyCase) -> None:
    there = case.map(torch.tensor)
    functions = functions_of(case)
    output = functions.forward(**there.arguments)
    np.testing.assert_array_equal(output, functions.forward(**case.arguments))
    grads = functions.backward(**there.backward_arguments)
    wanted = functions.backward(**case.backward_arguments)
    for got, want in zip(grads, wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    along = random_like(case.operands)
    tangents = functions.tangents(**{name: torch.tensor(array) for name, array in along.items()})
    got = [functions.jvp(tangents, **there.arguments)]
    got += functions.double_backward(tangents, **there.backward_arguments)
    wanted = [functions.jvp(functions.tangents(**along), **case.arguments)]
    wanted += functions.double_backward(functions.tangents(**along), **case.backward_arguments)
    for result, want in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(result, want)


@pytest.mark.promise("differentiable twice")
@every_slowly
def test_derivatives(case: AnyCase) -> None:
    operands = tensors(case, grad=True)
    function, fast = function_of_operands(case), {"fast_mode": True, "nondet_tol": 1e-10}
    assert gradcheck(function, operands, check_forward_ad=True, check_batched_grad=True, **fast)
    assert gradgradcheck(function, operands, check_batched_grad=True, **fast)


@every
def test_forward_over_reverse_is_reverse_over_reverse(case: AnyCase) -> None:
    operands, function = tensors(case), function_of_operands(case)
    loss = lambda *given: function(*given).sin().sum()  # noqa: E731
    names = differentiated(case)
    argnums = tuple([*case.operands].index(name) for name in names)
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
def test_opcheck(case: AnyCase) -> None:
    operands, static = tensors(case, grad=True), static_args(case)
    plain = [tensor.detach() for tensor in operands]
    grad_output = torch.tensor(case.grad_output, requires_grad=True)
    forward, backward, jvp, double_backward = overloads(case.operator)
    named = dict(zip(case.operands, plain, strict=True))
    without_bias = [named[name] for name in differentiated(case)]
    tangents, everything = [tensor * 0.5 for tensor in plain], [True] * len(plain)
    more = [True] * (1 + len(without_bias))
    for operator, arguments in (
        (forward, (*operands, static)),
        (backward, (grad_output, *operands, everything, static)),
        (jvp, (*without_bias, *tangents, static)),
        (double_backward, (grad_output.detach(), *without_bias, *tangents, more, static)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


@every_slowly
def test_compiled(case: AnyCase) -> None:
    torch._dynamo.reset()  # each operator is another version of one function
    operands, function = tensors(case, grad=True), function_of_operands(case)
    expected = function(*operands)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*operands), expected)
    grads = torch.autograd.grad(compiled(*operands).sum(), operands)
    for got, want in zip(grads, torch.autograd.grad(expected.sum(), operands), strict=True):
        assert torch.allclose(got, want)


@pytest.mark.parametrize(
    ("case", "dims"),
    [
        pytest.param(
            case,
            dims_of(case, dims),
            id=f"{case.operator}-{'+'.join(dims)}",
            marks=takes_long(case),
        )
        for case in CASES
        for dims in DIMS
        if set(dims_of(case, dims)) != {None}
    ],
)
def test_vmap_is_a_loop(case: AnyCase, dims: tuple[int | None, ...]) -> None:
    function, operands = function_of_operands(case), tensors(case)
    many = [
        tensor if dim is None else torch.stack([tensor, tensor / 2, -tensor], dim)
        for tensor, dim in zip(operands, dims, strict=True)
    ]

    def loss(*given: Any) -> Any:
        return function(*given).sin().sum()

    for mapped in (function, torch.func.grad(loss, tuple(range(len(many))))):
        got = torch.func.vmap(mapped, dims)(*many)
        for i in range(3):
            pairs = zip(many, dims, strict=True)
            wanted = mapped(*(t if dim is None else t.select(dim, i) for t, dim in pairs))
            if mapped is function:
                assert torch.allclose(got[i], wanted)
                continue
            for one, two in zip(got, wanted, strict=True):
                assert torch.allclose(one[i], two)


@every_convolution
def test_flops_are_those_of_a_convolution_of_the_same_size(case: Case) -> None:
    operands = tensors(case, grad=True)
    positions = operands[1].shape[0] * operands[1].shape[2:].numel()
    product = 2 * positions * operands[2].numel()
    with FlopCounterMode(display=False) as counter:
        output = function_of_operands(case)(*operands)
    assert counter.get_total_flops() == product
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(output.sum(), operands)
    parts = 3 if isinstance(case, TransposedCase) else 2
    assert counter.get_total_flops() == parts * product


@every_convolution
def test_zero_offsets_are_torchs_own_function(case: Case) -> None:
    input, offset, weight, bias, _ = tensors(case)
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


@every
def test_refusals_name_the_operator_that_was_called(case: AnyCase) -> None:
    leaves = tensors(case, grad=True)
    output = function_of_operands(case)(*leaves)
    for _ in range(2):
        (output,) = torch.autograd.grad(output.sin().sum(), leaves[-1:], create_graph=True)
    with pytest.raises(NotImplementedError, match=rf"derivatives of {case.operator} are not"):
        torch.autograd.grad(output.sum(), leaves[0])
    operator = getattr(torch.ops.cudeform, case.operator)
    with forward_ad.dual_level():
        input, *others = tensors(case)
        dual = forward_ad.make_dual(input, input)
        with pytest.raises(NotImplementedError, match=rf"through cudeform\.{case.operator},"):
            operator(dual, *others, static_args(case))
