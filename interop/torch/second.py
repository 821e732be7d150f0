"""Derivatives of the tangent and of the double backward. Third derivatives there are none."""

from __future__ import annotations

from typing import Any

import torch

from . import dispatch
from .autograd import Gradient, save, where
from .impl import Tensor
from .vmap import vmapped


class Jvp(torch.autograd.Function):  # type: ignore[misc]
    """(input, offset, weight, mask, five tangents, settings) -> tangent of the output."""

    generate_vmap_rule = False

    @staticmethod
    def forward(*args: Any) -> Tensor:
        """Run the operator."""
        return dispatch.jvp.operator(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep tensors and settings."""
        save(ctx, inputs[:9], inputs[9:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradient:
        """Of the tangents it is what the backward gives, of the others second derivatives."""
        input, offset, weight, mask, *tangents = ctx.saved_tensors
        needs, nothing = list(ctx.needs_input_grad[:9]), (None,) * len(ctx.rest)
        second: Gradient = (None,) * 4
        first: Gradient = (None,) * 5
        if grad is not None and any(needs[:4]):
            also = [False, *needs[:4]]
            tensors = grad, input, offset, weight, mask, *tangents
            second = where(also, dispatch.double_backward(*tensors, also, *ctx.rest))[1:]
        if grad is not None and any(needs[4:]):
            tensors = grad, input, offset, weight, tangents[3], mask  # a bias, for its shape
            first = where(needs[4:], dispatch.backward(*tensors, needs[4:], *ctx.rest))
        return second + first + nothing

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedError(
            "forward mode of forward mode is not implemented for deform_conv2d; for a Hessian use "
            "torch.func.hessian or jacrev inside"
        )

    @staticmethod
    def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
        """The rule for vmap: all examples in one ``call``."""
        return vmapped(call, "iifi" + "iiffi", [("i", True)], info, in_dims, args)


class DoubleBackward(torch.autograd.Function):  # type: ignore[misc]
    """(grad_output, input, offset, weight, mask, five tangents, needs, settings) -> five."""

    generate_vmap_rule = False

    @staticmethod
    def forward(*args: Any) -> Gradient:
        """Run the operator."""
        grads: Gradient = dispatch.double_backward.operator(*args)
        return grads

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: there is no derivative."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedError("third derivatives of deform_conv2d are not implemented")

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedError("third derivatives of deform_conv2d are not implemented")

    @staticmethod
    def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
        """The rule for vmap: all examples in one ``call``."""
        has = (True, True, True, True, args[4] is not None)
        results = [
            (letter, need and it) for letter, need, it in zip("iiifi", args[10], has, strict=False)
        ]
        return vmapped(call, "i" + "iifi" + "iiffi", results, info, in_dims, args)


dispatch.jvp.derive(Jvp)
dispatch.double_backward.derive(DoubleBackward)
