"""The FLOPs that torch's counter reports: those of a convolution's matrix products."""

from __future__ import annotations

from typing import Any

import pytest
from support.torchcases import quiet, torch

import cudeform

from torch.utils.flop_counter import FlopCounterMode, flop_registry  # isort: skip

pytestmark = quiet

PRODUCT = 2 * (2 * 8 * 6 * 7) * (2 * 3 * 3)


def operands() -> tuple[Any, Any, Any]:
    input, weight = torch.randn(2, 4, 6, 7), torch.randn(8, 2, 3, 3)
    return input, torch.randn(2, 18, 6, 7) / 3, weight


def flops(function: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def convolve(*tensors: Any) -> Any:
    return cudeform.deform_conv2d(*tensors, padding=1)


@pytest.mark.parametrize(
    ("needed", "products"), [((), 1), ((0,), 2), ((1,), 2), ((2,), 2), ((0, 1, 2), 3)]
)
def test_forward_and_backward(needed: tuple[int, ...], products: int) -> None:
    tensors = operands()
    for index in needed:
        tensors[index].requires_grad_()

    def run() -> None:
        output = convolve(*tensors)
        if needed:
            output.sum().backward()

    assert flops(run) == products * PRODUCT


def test_forward_mode() -> None:
    input, offset, weight = operands()

    def call(input: Any) -> Any:
        return convolve(input, offset, weight)

    def forward_mode() -> None:
        _, tangent = torch.func.jvp(call, (input,), (input,))
        torch.testing.assert_close(tangent, call(input))  # linear in the input

    assert flops(forward_mode) == 3 * PRODUCT


def test_tangents_and_second_derivatives() -> None:
    tensors = operands()
    tangents = cudeform.Tangents(*tensors)
    jvp = flops(lambda: cudeform.deform_conv2d_jvp(tangents, *tensors, padding=1))
    assert jvp == 2 * PRODUCT

    leaves = [t.requires_grad_() for t in tensors]

    def second() -> None:
        grads = torch.autograd.grad(convolve(*leaves).sum(), leaves, create_graph=True)
        torch.autograd.grad(grads[2].square().sum(), leaves[:2])

    assert flops(second) == 4 * PRODUCT


def test_a_counter_made_before_the_formulas_were_registered() -> None:
    counter = FlopCounterMode(display=False)
    for name in list(counter.flop_registry):
        if "cudeform" in str(name):
            del counter.flop_registry[name]
    with counter:
        convolve(*operands())
    assert counter.get_total_flops() == PRODUCT
    assert torch.ops.cudeform.deform_conv2d in flop_registry
