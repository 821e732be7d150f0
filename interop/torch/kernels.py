"""The operators on plain tensors, without derivatives.

Each is written once, for two kinds of tensors: ``on`` is ``Computed`` where they have contents, and
``Traced`` where only the shapes of the results are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cudeform import engine
from cudeform.arrays import DoubleGradients, Gradients, Tangents

from .impl import Computed, Tensor, Tensors, Traced
from .static_args import unpacked

On = type[Computed] | type[Traced]


def forward(
    on: On,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    settings: Sequence[int],
) -> Tensor:
    """The output, (N, O, OH, OW)."""
    chosen = unpacked(settings)
    chosen.check_assumed()
    operands = input, offset, weight, bias, mask
    g = on.geometry(operands, chosen)
    output = input.new_empty(*g.output_shape)
    on.run(engine.forward, operands, g, chosen.options(), output)
    return output


def backward(
    on: On,
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: Sequence[bool],
    settings: Sequence[int],
) -> Tensors:
    """Gradients in the order of ``Gradients``; None for one that is not needed."""
    chosen = unpacked(settings)
    operands = input, offset, weight, bias, mask
    g = on.geometry(operands, chosen, grad_output)
    grads = Gradients(*_wanted(needs, input, offset, weight, bias, mask))
    on.run(engine.backward, operands, g, chosen.options(), grad_output, grads)
    return grads


def jvp(
    on: On,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    input_tangent: Tensor | None,
    offset_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    mask_tangent: Tensor | None,
    settings: Sequence[int],
) -> Tensor:
    """The tangent of the output; None stands for a zero tangent."""
    chosen = unpacked(settings)
    operands = input, offset, weight, None, mask
    tangents = Tangents(input_tangent, offset_tangent, weight_tangent, bias_tangent, mask_tangent)
    g = on.geometry(operands, chosen, None, tangents)
    output_tangent = input.new_empty(*g.output_shape)
    on.run(engine.jvp, operands, g, chosen.options(), tangents, output_tangent)
    return output_tangent


def double_backward(
    on: On,
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    input_tangent: Tensor | None,
    offset_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    mask_tangent: Tensor | None,
    needs: Sequence[bool],
    settings: Sequence[int],
) -> Tensors:
    """Gradients of ``sum(tangents * backward(...))`` in the order of ``DoubleGradients``."""
    chosen = unpacked(settings)
    operands = input, offset, weight, None, mask
    tangents = Tangents(input_tangent, offset_tangent, weight_tangent, bias_tangent, mask_tangent)
    g = on.geometry(operands, chosen, grad_output, tangents)
    results = DoubleGradients(*_wanted(needs, grad_output, input, offset, weight, mask))
    options = chosen.options()
    on.run(engine.double_backward, operands, g, options, grad_output, tangents, results)
    return results


def _wanted(needs: Sequence[bool], *tensors: Tensor | None) -> Tensors:
    """Tensors to write, None where nothing is wanted or there is nothing to differentiate."""
    return tuple(
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        if need and tensor is not None
        else None
        for need, tensor in zip(needs, tensors, strict=True)
    )


def for_dispatcher(kernel: Callable[..., Any], on: On, *args: Any) -> Any:
    """The same without None, which no operator can return: empty vectors instead."""
    results = kernel(on, *args)
    if not isinstance(results, tuple):
        return results
    return tuple(args[0].new_empty(0) if tensor is None else tensor for tensor in results)
