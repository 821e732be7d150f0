"""What users call, with tensors that are known to be tensors: settings, autocast, the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cudeform.arrays import DoubleGradients, Gradients, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS, check_needs
from cudeform.geometry import Padding, Pair

from . import autograd, dispatch, second  # noqa: F401  they give the operators their derivatives
from .impl import Tensor
from .static_args import packed

HALVES = (torch.float16, torch.bfloat16)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
    *,
    boundary_grad: str | None = None,
) -> Tensor:
    """``cudeform.deform_conv2d`` of tensors.

    Differentiable twice in reverse mode and once in forward mode. Under autocast it is computed in
    float32 and the output has the input's dtype, unless all tensors are float16 or all bfloat16.

    Args:
        input, offset, weight, bias, stride, padding, dilation, mask: as there.
        boundary_grad: as in ``cudeform.options``; None takes the option in force.
    """
    settings = packed(stride, padding, dilation, boundary_grad)
    tensors = (input, offset, weight, bias, mask)
    if not _autocast(tensors):
        return dispatch.forward(*tensors, settings)
    return dispatch.forward(*map(_to_float32, tensors), settings).to(input.dtype)


def deform_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
    *,
    needs: Sequence[str] = GRADIENTS,
) -> Gradients:
    """``cudeform.deform_conv2d_backward`` of tensors; differentiable itself, once."""
    settings = packed(stride, padding, dilation)
    present = {"bias": bias is not None, "mask": mask is not None}
    needed = check_needs(needs, GRADIENTS, present)
    flags = [name in needed for name in GRADIENTS]
    operands = (input, offset, weight, bias, mask)
    tensors = (grad_output, *operands)
    if not _autocast(tensors):
        grads = dispatch.backward(*tensors, flags, settings)
        return Gradients(*autograd.where(flags, grads))
    grads = dispatch.backward(*map(_to_float32, tensors), flags, settings)
    pairs = zip(flags, grads, operands, strict=True)
    return Gradients(*(grad.to(of.dtype) if need else None for need, grad, of in pairs))


def deform_conv2d_jvp(
    tangents: Tangents,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """``cudeform.deform_conv2d_jvp`` of tensors."""
    settings = packed(stride, padding, dilation)
    return dispatch.jvp(input, offset, weight, mask, *tangents, settings)


def deform_conv2d_double_backward(
    cotangents: Tangents,
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
    *,
    needs: Sequence[str] = DOUBLE_GRADIENTS,
) -> DoubleGradients:
    """``cudeform.deform_conv2d_double_backward`` of tensors."""
    settings = packed(stride, padding, dilation)
    needed = check_needs(needs, DOUBLE_GRADIENTS, {"mask": mask is not None})
    flags = [name in needed for name in DOUBLE_GRADIENTS]
    tensors = (grad_output, input, offset, weight, mask, *cotangents)
    return DoubleGradients(
        *autograd.where(flags, dispatch.double_backward(*tensors, flags, settings))
    )


def _autocast(tensors: tuple[Any, ...]) -> bool:
    """Whether autocast is on, and the tensors are not in one half precision already."""
    device = tensors[1].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return False
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    return not (len(dtypes) == 1 and dtypes <= set(HALVES))


def _to_float32(tensor: Tensor | None) -> Tensor | None:
    """Autocast's rule: float64 and what is no floating point number stay as they are."""
    if tensor is None or tensor.dtype not in HALVES:
        return tensor
    return tensor.float()
