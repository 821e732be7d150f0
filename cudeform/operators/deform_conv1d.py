"""Deformable convolution in one dimension and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS
from cudeform.family import DEFORM_CONV1D
from cudeform.operators import call
from cudeform.settings import Ints, Padding, Settings


def deform_conv1d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
) -> Any:
    """Deformable convolution in one dimension: each tap samples the input at a displaced position.

    What :func:`deform_conv2d` is for images, for signals, sequences and series. The offset, seen as
    ``(N, offset_groups, KW, OW)``, holds the displacements **dx** in samples of the input. Tap
    ``j`` of output position ``ox`` samples the input at::

        x = ox * stride - pad_left + j * dilation + dx

    by linear interpolation of the input extended by zeros; a sample is 0 unless ``-1 < x < W``.
    Channel ``c`` follows offset group ``c // (C / offset_groups)``. A NaN coordinate gives NaN, an
    infinite one is outside.

    Args:
        input: (N, C, W), float16, bfloat16, float32 or float64, any strides.
        offset: (N, offset_groups*KW, OW). Broadcast (stride-0) arrays are read as they are.
        weight: (O, C/groups, KW).
        bias: (O,), or None.
        stride: a number, or a tuple of one.
        padding: zeros added on each side: a number, (width,), or ((left, right),). Or "valid",
            none, or at stride 1 "same", which keeps the size: right gets the larger half.
        dilation: distance of taps, a number or a tuple of one.
        mask: (N, offset_groups*KW, OW), the factor of each sample, or None for 1. No sigmoid is
            applied.

    All arrays share one library, dtype and device. ``groups = C // weight.shape[1]`` and
    ``offset_groups = offset.shape[1] // KW`` are inferred.

    Returns:
        (N, O, OW), an array of the same library, dtype and device.
        ``OW = (W + left + right - dilation*(KW - 1) - 1) // stride + 1``.

    Raises:
        TypeError: an argument that is no array, arrays of different libraries or dtypes, an
            unsupported dtype.
        ValueError: arrays on different devices, shapes that do not fit, an impossible size.

    Example:
        >>> import numpy as np, cudeform
        >>> signal = np.arange(5.0).reshape(1, 1, 5)
        >>> offset = np.full((1, 1, 5), 0.5)  # dx: every position looks half a sample ahead
        >>> cudeform.deform_conv1d(signal, offset, np.ones((1, 1, 1)))[0, 0]
        array([0.5, 1.5, 2.5, 3.5, 2. ])
    """
    operands = Operands(input, offset, weight, bias, mask)
    return call.forward(DEFORM_CONV1D, operands, Settings(stride, padding, dilation))


def deform_conv1d_backward(
    grad_output: Any,
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    needs: Sequence[str] = GRADIENTS,
) -> Gradients:
    """Gradients of ``(grad_output * deform_conv1d(...)).sum()``.

    Conventions at whole coordinates and at the edge are those of :func:`deform_conv2d_backward`.

    Args:
        grad_output: (N, O, OW), same library, dtype and device as the input.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv1d`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(input, offset, weight, bias, mask)``, each of its argument's shape and
        dtype, None where not needed or where there is no such argument.

    Raises:
        TypeError, ValueError: as :func:`deform_conv1d`, or a name in ``needs`` that is no argument.

    Example:
        >>> import numpy as np, cudeform
        >>> signal = np.array([0.0, 1.0, 4.0, 9.0]).reshape(1, 1, 4)
        >>> offset, weight = np.zeros((1, 1, 4)), np.ones((1, 1, 1))
        >>> ones = np.ones((1, 1, 4))
        >>> cudeform.deform_conv1d_backward(ones, signal, offset, weight).offset[0, 0]
        array([ 1.,  3.,  5., -9.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = Settings(stride, padding, dilation)
    grads: Gradients = call.backward(DEFORM_CONV1D, operands, settings, grad_output, needs)
    return grads


def deform_conv1d_jvp(
    tangents: Tangents,
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
) -> Any:
    """Forward mode: the derivative of the output in the direction of ``tangents``.

    Args:
        tangents: :class:`cudeform.Tangents`: one direction for each argument, of its shape and
            dtype; None stands for zero.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv1d`.

    Returns:
        Tangent of the output, (N, O, OW).

    Raises:
        TypeError, ValueError: as :func:`deform_conv1d`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> signal = np.array([0.0, 1.0, 4.0, 9.0]).reshape(1, 1, 4)
        >>> offset, weight = np.zeros((1, 1, 4)), np.ones((1, 1, 1))
        >>> ahead = Tangents(offset=np.ones_like(offset))
        >>> derivatives.deform_conv1d_jvp(ahead, signal, offset, weight)[0, 0]
        array([ 1.,  3.,  5., -9.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    return call.jvp(DEFORM_CONV1D, operands, Settings(stride, padding, dilation), tangents)


def deform_conv1d_double_backward(
    cotangents: Tangents,
    grad_output: Any,
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    needs: Sequence[str] = DOUBLE_GRADIENTS,
) -> DoubleGradients:
    """Gradients of the gradients: of ``sum(cotangents * deform_conv1d_backward(...))``.

    Args:
        cotangents: :class:`cudeform.Tangents`: one cotangent for each gradient, of its shape and
            dtype; None stands for zero.
        grad_output: (N, O, OW), as for :func:`deform_conv1d_backward`.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv1d`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, input, offset, weight, mask)``. It has no bias: no gradient
        depends on the bias.

    Raises:
        TypeError, ValueError: as :func:`deform_conv1d_backward`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> signal = np.array([0.0, 1.0, 4.0, 9.0]).reshape(1, 1, 4)
        >>> offset, weight = np.zeros((1, 1, 4)), np.ones((1, 1, 1))
        >>> second = derivatives.deform_conv1d_double_backward(
        ...     Tangents(weight=weight), np.ones((1, 1, 4)), signal, offset, weight
        ... )
        >>> second.offset[0, 0]  # d/dx of sum(signal)
        array([ 1.,  3.,  5., -9.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = Settings(stride, padding, dilation)
    grads: DoubleGradients = call.double_backward(
        DEFORM_CONV1D, operands, settings, grad_output, cotangents, needs
    )
    return grads
