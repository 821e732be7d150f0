"""The adapter for tensors: it packs the settings, applies autocast, and calls the operators.

torch traces and differentiates the operators of ``dispatch.py``, so the checks of sizes, dtypes and
devices are in the operators (``impl.py``), where a compiled call runs them too.
"""

from __future__ import annotations

from typing import Any

import torch

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS
from cudeform.family import AnySettings, Operator

from . import autograd
from .dispatch import FUNCTIONS
from .static_args import pack
from .views import Tensor

HALVES = (torch.float16, torch.bfloat16)


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
        static_args = pack(operator, settings, boundary_grad)
        if not _autocast_applies(operands):
            return FUNCTIONS[operator.name].forward(*operands, static_args)
        return (
            FUNCTIONS[operator.name]
            .forward(*map(_to_float32, operands), static_args)
            .to(operands.input.dtype)
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
        static_args = pack(operator, settings)
        flags = [name in needs for name in GRADIENTS]
        tensors = (grad_output, *operands)
        if not _autocast_applies(tensors):
            grads = FUNCTIONS[operator.name].backward(*tensors, flags, static_args)
            return Gradients(*autograd.needed(flags, grads))
        grads = FUNCTIONS[operator.name].backward(*map(_to_float32, tensors), flags, static_args)
        pairs = zip(flags, grads, operands, strict=True)
        return Gradients(*(grad.to(of.dtype) if need else None for need, grad, of in pairs))

    def jvp(
        self, operator: Operator, operands: Operands, settings: AnySettings, tangents: Tangents
    ) -> Tensor:
        """The tangent of the output."""
        o = operands
        return FUNCTIONS[operator.name].jvp(
            o.input, o.offset, o.weight, o.mask, *tangents, pack(operator, settings)
        )

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
        o = operands
        flags = [name in needs for name in DOUBLE_GRADIENTS]
        tensors = (grad_output, o.input, o.offset, o.weight, o.mask, *cotangents)
        grads = FUNCTIONS[operator.name].double_backward(*tensors, flags, pack(operator, settings))
        return DoubleGradients(*autograd.needed(flags, grads))


ADAPTER = TorchAdapter()


def _autocast_applies(tensors: tuple[Any, ...]) -> bool:
    """Whether autocast is on, and the tensors do not all have the same 16-bit dtype."""
    device = tensors[1].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return False
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    return not (len(dtypes) == 1 and dtypes <= set(HALVES))


def _to_float32(tensor: Tensor | None) -> Tensor | None:
    """Convert 16-bit tensors to float32; like autocast, leave float64 and integers unchanged."""
    if tensor is None or tensor.dtype not in HALVES:
        return tensor
    return tensor.float()
