"""The functions of ``cudeform``, typed for tensors.

Their results are those of ``cudeform``'s functions. ``deform_conv2d`` also has ``boundary_grad``,
for layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS
from cudeform.family import DEFORM_CONV2D
from cudeform.settings import Ints, Padding, Settings

from .adapter import ADAPTER
from .views import Tensor


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Tensor | None = None,
    *,
    boundary_grad: str | None = None,
) -> Tensor:
    """``cudeform.deform_conv2d`` of tensors.

    Differentiable twice in reverse mode and once in forward mode. Under autocast it is computed in
    float32 and the output has the input's dtype, unless all tensors are float16 or all bfloat16.

    Args:
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            ``cudeform.deform_conv2d``.
        boundary_grad: as in ``cudeform.options``; None uses the option in force.
    """
    operands = Operands(input, offset, weight, bias, mask)
    return ADAPTER.forward(
        DEFORM_CONV2D, operands, _settings(input, weight, stride, padding, dilation), boundary_grad
    )


def deform_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Tensor | None = None,
    *,
    needs: Sequence[str] = GRADIENTS,
) -> Gradients:
    """``cudeform.deform_conv2d_backward`` of tensors; it can be differentiated once."""
    operands = Operands(input, offset, weight, bias, mask)
    needed = DEFORM_CONV2D.needed(needs, Gradients, operands)
    return ADAPTER.backward(
        DEFORM_CONV2D,
        operands,
        _settings(input, weight, stride, padding, dilation),
        grad_output,
        needed,
    )


def deform_conv2d_jvp(
    tangents: Tangents,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """``cudeform.deform_conv2d_jvp`` of tensors."""
    operands = Operands(input, offset, weight, bias, mask)
    tangents = DEFORM_CONV2D.directions(tangents, operands)
    settings = _settings(input, weight, stride, padding, dilation)
    return ADAPTER.jvp(DEFORM_CONV2D, operands, settings, tangents)


def deform_conv2d_double_backward(
    cotangents: Tangents,
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Tensor | None = None,
    *,
    needs: Sequence[str] = DOUBLE_GRADIENTS,
) -> DoubleGradients:
    """``cudeform.deform_conv2d_double_backward`` of tensors."""
    operands = Operands(input, offset, weight, bias, mask)
    needed = DEFORM_CONV2D.needed(needs, DoubleGradients, operands)
    cotangents = DEFORM_CONV2D.directions(cotangents, operands)
    settings = _settings(input, weight, stride, padding, dilation)
    return ADAPTER.double_backward(
        DEFORM_CONV2D, operands, settings, grad_output, cotangents, needed
    )


def _settings(
    input: Tensor, weight: Tensor, stride: Ints, padding: Padding, dilation: Ints
) -> Settings:
    return Settings(stride, padding, dilation).resolved(input, weight, DEFORM_CONV2D.axes)
