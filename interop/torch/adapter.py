"""The adapter for tensors: it packs the settings, applies autocast, and calls the operators.

torch traces and differentiates the operators of ``dispatch.py``, so the checks of sizes, dtypes and
devices are in the operators (``impl.py``), where a compiled call runs them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.family import AnySettings, Operator

from . import autocast, autograd
from .dispatch import FUNCTIONS
from .static_args import pack
from .views import Tensor


class TorchAdapter:
    """Calls the operators of ``torch.ops.cudeform``."""

    def forward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        boundary_grad: str | None = None,
    ) -> Tensor:
        """The output; ``boundary_grad`` overrules the option in force."""
        function, static_args = (
            FUNCTIONS[operator.name].forward,
            pack(operator, settings, boundary_grad),
        )
        tensors = _given(operator, operands)
        if not autocast.applies(tensors):
            return function(*tensors, static_args)
        return function(*autocast.converted(operator, tensors), static_args).to(
            operands.input.dtype
        )

    def backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        grad_output: Tensor,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``."""
        function, static_args = FUNCTIONS[operator.name].backward, pack(operator, settings)
        flags = [name in needs for name in operator.names]
        tensors = _given(operator, operands)
        if not autocast.applies((grad_output, *tensors)):
            grads = function(grad_output, *tensors, flags, static_args)
            return _gradients(operator, autograd.needed(flags, grads))
        converted = autocast.converted(operator, tensors)
        grad_output = autocast.converted_as_input(operator, grad_output)
        grads = function(grad_output, *converted, flags, static_args)
        pairs = zip(flags, grads, tensors, strict=True)
        return _gradients(
            operator, [grad.to(of.dtype) if need else None for need, grad, of in pairs]
        )

    def jvp(
        self, operator: Operator, operands: Operands, settings: AnySettings, tangents: Tangents
    ) -> Tensor:
        """The tangent of the output."""
        primals = [getattr(operands, name) for name in operator.differentiated]
        directions = [getattr(tangents, name) for name in operator.names]
        return FUNCTIONS[operator.name].jvp(*primals, *directions, pack(operator, settings))

    def double_backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        grad_output: Tensor,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of the gradients named in ``needs``."""
        names = ("grad_output", *operator.differentiated)
        flags = [name in needs for name in names]
        primals = [getattr(operands, name) for name in operator.differentiated]
        directions = [getattr(cotangents, name) for name in operator.names]
        tensors = (grad_output, *primals, *directions)
        grads = FUNCTIONS[operator.name].double_backward(*tensors, flags, pack(operator, settings))
        return DoubleGradients(**dict(zip(names, autograd.needed(flags, grads), strict=True)))


ADAPTER = TorchAdapter()


def _given(operator: Operator, operands: Operands) -> Sequence[Any]:
    """The operands that an operator has, in order."""
    if len(operator.operands) == len(operands):
        return operands
    return [getattr(operands, name) for name in operator.names]


def _gradients(operator: Operator, grads: Sequence[Any]) -> Gradients:
    found: Gradients = operator.fill(Gradients, grads)
    return found
