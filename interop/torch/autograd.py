"""Derivatives of the forward and of the backward, as torch wants to hear them."""

from __future__ import annotations

from typing import Any

import torch

from . import dispatch
from .impl import Tensor
from .vmap import vmapped

Gradient = tuple[Any, ...]


def save(ctx: Any, tensors: Any, rest: Any) -> None:
    """Keep what the derivatives need. A gradient that is zero shall come as None."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)
    ctx.rest = tuple(rest)


def where(needs: Any, tensors: Any) -> Gradient:
    """Tensors that are needed, None for the empty ones that stand for the others."""
    return tuple(t if need else None for need, t in zip(needs, tensors, strict=True))


class Forward(torch.autograd.Function):  # type: ignore[misc]
    """(input, offset, weight, bias, mask, settings) -> output."""

    generate_vmap_rule = False

    @staticmethod
    def forward(*args: Any) -> Tensor:
        """Run the operator."""
        return dispatch.forward.operator(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep tensors and settings."""
        save(ctx, inputs[:5], inputs[5:])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> Gradient:
        """Those gradients that are needed, one for each argument."""
        needs, nothing = list(ctx.needs_input_grad[:5]), (None,) * len(ctx.rest)
        if grad_output is None:
            return (None,) * 5 + nothing
        grads = dispatch.backward(grad_output, *ctx.saved_tensors, needs, *ctx.rest)
        return where(needs, grads) + nothing

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The tangent of the output."""
        input, offset, weight, _, mask = ctx.saved_tensors
        return dispatch.jvp(input, offset, weight, mask, *tangents[:5], *ctx.rest)

    @staticmethod
    def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
        """The rule for vmap: all examples in one ``call``."""
        return vmapped(call, "iiffi", [("i", True)], info, in_dims, args)


class Backward(torch.autograd.Function):  # type: ignore[misc]
    """(grad_output, input, offset, weight, bias, mask, needs, settings) -> five gradients."""

    generate_vmap_rule = False

    @staticmethod
    def forward(*args: Any) -> Gradient:
        """Run the operator."""
        grads: Gradient = dispatch.backward.operator(*args)
        return grads

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep tensors, what was needed, and settings."""
        save(ctx, inputs[:6], inputs[6:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradient:
        """Gradients of the gradients, one for each argument."""
        grad_output, input, offset, weight, _, mask = ctx.saved_tensors
        needed, *settings = ctx.rest
        tangents = where(needed, grads)
        nothing = (None,) * len(ctx.rest)
        if all(tangent is None for tangent in tangents):
            return (None,) * 6 + nothing
        wanted = ctx.needs_input_grad
        needs = [*wanted[:4], wanted[5]]
        tensors = grad_output, input, offset, weight, mask, *tangents
        *found, of_mask = where(needs, dispatch.double_backward(*tensors, needs, *settings))
        return (*found, None, of_mask, *nothing)

    @staticmethod
    def jvp(ctx: Any, of_grad_output: Tensor | None, *tangents: Any) -> Gradient:
        """Tangents of the gradients, empty where a gradient was not needed."""
        grad_output, input, offset, weight, bias, mask = ctx.saved_tensors
        needs, *settings = ctx.rest
        linear: Gradient = (None,) * 5
        if of_grad_output is not None:
            rest = input, offset, weight, bias, mask, needs, *settings
            linear = where(needs, dispatch.backward(of_grad_output, *rest))
        operands = input, offset, weight, bias, mask
        if all(tangent is None for tangent in tangents[:5]):
            return _filled(needs, linear, operands)
        also = [False, *needs[:3], needs[4]]
        tensors = grad_output, input, offset, weight, mask, *tangents[:5]
        found = where(also, dispatch.double_backward(*tensors, also, *settings))
        total = tuple(map(_sum, linear, (*found[1:4], None, found[4])))
        return _filled(needs, total, operands)

    @staticmethod
    def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
        """The rule for vmap: all examples in one ``call``."""
        has = (True, True, True, args[4] is not None, args[5] is not None)
        results = [
            (letter, need and it) for letter, need, it in zip("iiffi", args[6], has, strict=False)
        ]
        return vmapped(call, "iiiffi", results, info, in_dims, args)


def _filled(needs: Any, tangents: Gradient, operands: Gradient) -> Gradient:
    """Zeros for None, which torch's transforms take for no floating point number."""
    return tuple(
        tangent
        if tangent is not None
        else torch.zeros_like(operand)
        if need
        else operands[0].new_zeros(0)
        for need, tangent, operand in zip(needs, tangents, operands, strict=True)
    )


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


dispatch.forward.derive(Forward)
dispatch.backward.derive(Backward)
