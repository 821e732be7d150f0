"""Derivatives of the operators, as ``autograd.Function``s that torch.func can transform.

There is one factory for each of the four functions of an operator; the docstring of the Function
lists its arguments. Zero gradients and tangents are passed and returned as None. The derivatives of
the forward, of the backward and of the jvp are calls of operators. The double backward has no
derivatives, so third derivatives are not supported.
"""

from __future__ import annotations

from typing import Any

import torch

from cudeform.family import BIAS, OPERATORS, Operator

from .dispatch import FUNCTIONS, Functions
from .views import Tensor
from .vmap import IMAGES, letters_of, vmapped

Gradient = tuple[Any, ...]


def needed(needs: Any, tensors: Any) -> Gradient:
    """The tensors, with None for each that is not needed; torch has an empty tensor there."""
    return tuple(t if need else None for need, t in zip(needs, tensors, strict=True))


def _save(ctx: Any, tensors: Any, rest: Any) -> None:
    """Save tensors and other arguments; make torch pass None instead of zero gradients."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)
    ctx.rest = tuple(rest)


def _forward(operator: Operator, functions: Functions) -> Any:
    letters = letters_of(operator)

    class Forward(torch.autograd.Function):  # type: ignore[misc]
        """(input, offset, weight, bias, mask, static_args) -> output."""

        generate_vmap_rule = False

        @staticmethod
        def forward(*args: Any) -> Tensor:
            """Call the operator."""
            return functions.forward.primal(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            """Save the operands."""
            _save(ctx, inputs[:5], inputs[5:])

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor | None) -> Gradient:
            """The gradients that are needed."""
            needs, no_grads = list(ctx.needs_input_grad[:5]), (None,) * len(ctx.rest)
            if grad_output is None:
                return (None,) * 5 + no_grads
            grads = functions.backward(grad_output, *ctx.saved_tensors, needs, *ctx.rest)
            return needed(needs, grads) + no_grads

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Tensor:
            """The tangent of the output."""
            input, offset, weight, _, mask = ctx.saved_tensors
            return functions.jvp(input, offset, weight, mask, *tangents[:5], *ctx.rest)

        @staticmethod
        def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
            """The rule for vmap: all examples in one ``call``."""
            return vmapped(operator, call, letters, [(IMAGES, True)], info, in_dims, args)

    return Forward


def _backward(operator: Operator, functions: Functions) -> Any:
    letters = letters_of(operator)

    class Backward(torch.autograd.Function):  # type: ignore[misc]
        """(grad_output, input, offset, weight, bias, mask, needs, static_args) -> gradients."""

        generate_vmap_rule = False

        @staticmethod
        def forward(*args: Any) -> Gradient:
            """Call the operator."""
            grads: Gradient = functions.backward.primal(*args)
            return grads

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            """Save grad_output and the operands."""
            _save(ctx, inputs[:6], inputs[6:])

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> Gradient:
            """Gradients of ``sum(cotangents * gradients)``."""
            grad_output, input, offset, weight, _, mask = ctx.saved_tensors
            were_needed, *static_args = ctx.rest
            cotangents = needed(were_needed, cotangents)
            no_grads = (None,) * len(ctx.rest)
            if all(cotangent is None for cotangent in cotangents):
                return (None,) * 6 + no_grads
            needs = [*ctx.needs_input_grad[:4], ctx.needs_input_grad[5]]
            tensors = grad_output, input, offset, weight, mask, *cotangents
            grads = needed(needs, functions.double_backward(*tensors, needs, *static_args))
            *grads_before_bias, grad_mask = grads
            return (*grads_before_bias, None, grad_mask, *no_grads)

        @staticmethod
        def jvp(ctx: Any, grad_output_tangent: Tensor | None, *tangents: Any) -> Gradient:
            """Tangents of the gradients, empty where a gradient was not needed.

            The gradients are linear in grad_output: its tangent contributes another backward. The
            tangents of the operands contribute second derivatives.
            """
            grad_output, input, offset, weight, bias, mask = ctx.saved_tensors
            needs, *static_args = ctx.rest
            operands = input, offset, weight, bias, mask
            linear: Gradient = (None,) * 5
            if grad_output_tangent is not None:
                grads = functions.backward(grad_output_tangent, *operands, needs, *static_args)
                linear = needed(needs, grads)
            if all(tangent is None for tangent in tangents[:5]):
                return _filled(needs, linear, operands)
            double_needs = [False, *needs[:3], needs[4]]
            tensors = grad_output, input, offset, weight, mask, *tangents[:5]
            second = functions.double_backward(*tensors, double_needs, *static_args)
            _, *before_bias, of_mask = needed(double_needs, second)
            total = tuple(map(_sum, linear, (*before_bias, None, of_mask)))
            return _filled(needs, total, operands)

        @staticmethod
        def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
            """The rule for vmap: all examples in one ``call``."""
            results = _results_of(letters, args[1:6], args[6])
            return vmapped(operator, call, IMAGES + letters, results, info, in_dims, args)

    return Backward


def _jvp(operator: Operator, functions: Functions) -> Any:
    letters, without_bias = letters_of(operator), _letters_without_bias(operator)

    class Jvp(torch.autograd.Function):  # type: ignore[misc]
        """(input, offset, weight, mask, five tangents, static_args) -> tangent of the output."""

        generate_vmap_rule = False

        @staticmethod
        def forward(*args: Any) -> Tensor:
            """Call the operator."""
            return functions.jvp.primal(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            """Save the operands and the tangents."""
            _save(ctx, inputs[:9], inputs[9:])

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> Gradient:
            """Gradients with respect to the operands and to the tangents.

            Those with respect to the tangents are the ordinary backward; those with respect to the
            operands need second derivatives.
            """
            input, offset, weight, mask, *tangents = ctx.saved_tensors
            needs, no_grads = list(ctx.needs_input_grad[:9]), (None,) * len(ctx.rest)
            of_operands: Gradient = (None,) * 4
            of_tangents: Gradient = (None,) * 5
            if grad is not None and any(needs[:4]):
                double_needs = [False, *needs[:4]]
                tensors = grad, input, offset, weight, mask, *tangents
                second = functions.double_backward(*tensors, double_needs, *ctx.rest)
                of_operands = needed(double_needs, second)[1:]
            if grad is not None and any(needs[4:]):
                bias = tangents[3]  # the shape suffices: no gradient depends on the bias's values
                tensors = grad, input, offset, weight, bias, mask
                first = functions.backward(*tensors, needs[4:], *ctx.rest)
                of_tangents = needed(needs[4:], first)
            return of_operands + of_tangents + no_grads

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            """Raise: not implemented."""
            raise NotImplementedError(
                f"forward mode of forward mode is not implemented for {operator.name}; for a "
                "Hessian use torch.func.hessian or jacrev inside"
            )

        @staticmethod
        def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
            """The rule for vmap: all examples in one ``call``."""
            return vmapped(
                operator, call, without_bias + letters, [(IMAGES, True)], info, in_dims, args
            )

    return Jvp


def _double_backward(operator: Operator, functions: Functions) -> Any:
    letters, without_bias = letters_of(operator), _letters_without_bias(operator)

    class DoubleBackward(torch.autograd.Function):  # type: ignore[misc]
        """(grad_output, input, offset, weight, mask, five tangents, needs, static_args)

        -> gradients of grad_output, input, offset, weight and mask.
        """

        generate_vmap_rule = False

        @staticmethod
        def forward(*args: Any) -> Gradient:
            """Call the operator."""
            grads: Gradient = functions.double_backward.primal(*args)
            return grads

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            """Save no_grads: there is no derivative."""

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            """Raise: not implemented."""
            raise NotImplementedError(f"third derivatives of {operator.name} are not implemented")

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            """Raise: not implemented."""
            raise NotImplementedError(f"third derivatives of {operator.name} are not implemented")

        @staticmethod
        def batched(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
            """The rule for vmap: all examples in one ``call``."""
            arguments = IMAGES + without_bias
            results = _results_of(arguments, args[:5], args[10])
            return vmapped(operator, call, arguments + letters, results, info, in_dims, args)

    return DoubleBackward


def _letters_without_bias(operator: Operator) -> str:
    pairs = zip(letters_of(operator), operator.operands, strict=True)
    return "".join(letter for letter, operand in pairs if operand.role != BIAS)


def _results_of(dims: str, tensors: Any, needs: Any) -> list[tuple[str, bool]]:
    """For vmap: the letters of each gradient, and whether it is computed."""
    return [
        (letter, need and tensor is not None)
        for letter, tensor, need in zip(dims, tensors, needs, strict=True)
    ]


def _filled(needs: Any, tangents: Gradient, operands: Gradient) -> Gradient:
    """Replace None by zeros: torch.func treats a None as a result that is not floating point."""
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


# The factories, in the order of the functions of an operator.
FACTORIES = (_forward, _backward, _jvp, _double_backward)

for _name, _functions in FUNCTIONS.items():
    for _function, _factory in zip(_functions, FACTORIES, strict=True):
        _function.set_derivatives(_factory(OPERATORS[_name], _functions))
