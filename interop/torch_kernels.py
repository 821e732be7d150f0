"""The operators on plain tensors, without derivatives: from tensors to the engine, and in shapes.

Nothing is copied. On the CPU the engine gets NumPy views of the tensors; on a GPU it gets their
addresses, the stream that is current in torch, and memory from torch's allocator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import starmap
from typing import Any

import torch
from torch.autograd import forward_ad

from cudeform import engine, geometry
from cudeform.geometry import GRADIENTS, Geometry, check_devices, check_dtypes
from cudeform.operands import DoubleGradients, Gradients, Operands
from cudeform.options import Options

from .torch_settings import Settings

Tensor = Any
Tensors = tuple[Tensor, ...]

DTYPE_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


def dtype_name(tensor: Tensor) -> str:
    """Name of the dtype, as Geometry knows it."""
    return DTYPE_NAMES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")


def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    *settings: Any,
) -> Tensor:
    """The output, (N, O, OH, OW)."""
    chosen = Settings(*settings)
    chosen.check_assumed()
    operands = Operands(input, offset, weight, bias, mask)
    g = _geometry(operands, chosen)
    output = input.new_empty(g.output_shape)
    _run(engine.forward, operands, g, chosen, output)
    return output


def forward_shape(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    *settings: Any,
) -> Tensor:
    """An empty output."""
    g = _geometry(Operands(input, offset, weight, bias, mask), Settings(*settings))
    return input.new_empty(g.output_shape)


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: Sequence[bool],
    *settings: Any,
) -> Tensors:
    """Gradients in the order of ``GRADIENTS``; one that is not needed is an empty vector."""
    chosen = Settings(*settings)
    operands = Operands(input, offset, weight, bias, mask)
    g = _geometry(operands, chosen, grad_output=grad_output)
    grads = Gradients(*_wanted((input, offset, weight, bias, mask), needs))
    _run(engine.backward, operands, g, chosen, grad_output, grads)
    return _filled(input, grads)


def backward_shape(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: Sequence[bool],
    *settings: Any,
) -> Tensors:
    """Empty gradients."""
    operands = Operands(input, offset, weight, bias, mask)
    _geometry(operands, Settings(*settings), grad_output=grad_output)
    return _filled(input, _wanted((input, offset, weight, bias, mask), needs))


def jvp(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    input_tangent: Tensor | None,
    offset_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    mask_tangent: Tensor | None,
    *settings: Any,
) -> Tensor:
    """The output's tangent."""
    chosen = Settings(*settings)
    operands = Operands(input, offset, weight, None, mask)
    tangents = Gradients(input_tangent, offset_tangent, weight_tangent, bias_tangent, mask_tangent)
    g = _geometry(operands, chosen, like=tangents)
    output_tangent = input.new_empty(g.output_shape)
    _run(engine.jvp, operands, g, chosen, tangents, output_tangent)
    return output_tangent


def jvp_shape(
    input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, *rest: Any
) -> Tensor:
    """An empty tangent."""
    operands = Operands(input, offset, weight, None, mask)
    g = _geometry(operands, Settings(*rest[5:]), like=Gradients(*rest[:5]))
    return input.new_empty(g.output_shape)


def double_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    input_cotangent: Tensor | None,
    offset_cotangent: Tensor | None,
    weight_cotangent: Tensor | None,
    bias_cotangent: Tensor | None,
    mask_cotangent: Tensor | None,
    needs: Sequence[bool],
    *settings: Any,
) -> Tensors:
    """Gradients of grad_output, input, offset, weight, mask; one not needed is an empty vector."""
    chosen = Settings(*settings)
    operands = Operands(input, offset, weight, None, mask)
    cotangents = Gradients(
        input_cotangent, offset_cotangent, weight_cotangent, bias_cotangent, mask_cotangent
    )
    g = _geometry(operands, chosen, grad_output=grad_output, like=cotangents)
    results = DoubleGradients(*_wanted((grad_output, input, offset, weight, mask), needs))
    _run(engine.double_backward, operands, g, chosen, grad_output, cotangents, results)
    return _filled(input, results)


def double_backward_shape(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    *rest: Any,
) -> Tensors:
    """Empty gradients."""
    operands = Operands(input, offset, weight, None, mask)
    needs, settings = rest[5], Settings(*rest[6:])
    _geometry(operands, settings, grad_output=grad_output, like=Gradients(*rest[:5]))
    return _filled(input, _wanted((grad_output, input, offset, weight, mask), needs))
