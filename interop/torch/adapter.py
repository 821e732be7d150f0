"""The adapter for tensors: it packs the settings, applies autocast, and calls the operators.

torch traces and differentiates the operators of ``dispatch.py``, so the checks of sizes, dtypes and
devices are in the operators (``impl.py``), where a compiled call runs them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.spec import AnySettings, Operator

from . import autograd
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
        if not _autocast_applies(tensors):
            return function(*tensors, static_args)
        return function(*_converted(operator, tensors), static_args).to(operands.input.dtype)

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
        if not _autocast_applies((grad_output, *tensors)):
            grads = function(grad_output, *tensors, flags, static_args)
            return _gradients(operator, autograd.needed(flags, grads))
        converted = _converted(operator, tensors)
        grad_output = _as_input(operator, grad_output)
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

HALVES = (torch.float16, torch.bfloat16)


def _given(operator: Operator, operands: Operands) -> Sequence[Any]:
    """The operands that an operator has, in order."""
    if len(operator.operands) == len(operands):
        return operands
    return [getattr(operands, name) for name in operator.names]


def _gradients(operator: Operator, grads: Sequence[Any]) -> Gradients:
    found: Gradients = operator.fill(Gradients, grads)
    return found


def _autocast_applies(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autocast is on, and the tensors do not all have the same 16-bit dtype."""
    device = tensors[1].device.type  # type: ignore[union-attr]
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return False
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    return not (len(dtypes) == 1 and dtypes <= set(HALVES))


def _converted(operator: Operator, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The operands in the dtypes that autocast computes in.

    A convolution is computed in float32. An operator whose coordinates may be float32 beside 16-bit
    values keeps the dtype of its values, and its 16-bit coordinates become float32.
    """
    return [
        _to_float32(tensor) if operand.coordinates else _as_input(operator, tensor)
        for operand, tensor in zip(operator.operands, tensors, strict=True)
    ]


def _as_input(operator: Operator, tensor: Tensor | None) -> Any:
    """A tensor of the dtype of the input, such as a gradient of the output."""
    return tensor if operator.coordinates else _to_float32(tensor)


def _to_float32(tensor: Tensor | None) -> Any:
    """Convert 16-bit tensors to float32; like autocast, leave float64 and integers unchanged."""
    if tensor is None or tensor.dtype not in HALVES:
        return tensor
    return tensor.float()
