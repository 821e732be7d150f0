"""Transposed deformable convolution in one dimension and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS
from cudeform.family import DEFORM_CONV_TRANSPOSE1D
from cudeform.operators import call
from cudeform.settings import Ints
from cudeform.transposed.geometry import TransposedPadding, TransposedSettings


def deform_conv_transpose1d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: TransposedPadding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    groups: int = 1,
) -> Any:
    """Transposed deformable convolution in one dimension: taps add at displaced positions.

    The counterpart of :func:`deform_conv_transpose2d` for signals and series. The offset, viewed as
    ``(N, offset_groups, KW, W)``, contains the displacements **dx** in samples of the output.
    Tap ``j`` of input position ``ix`` adds to the output at::

        x = ix * stride - pad_left + j * dilation + dx

    Each product is added to two samples, with linear weights; parts outside the output are
    discarded. Channel ``c`` of the output follows offset group ``c // (O / offset_groups)``. With
    zero offset and no mask it is ``torch.nn.functional.conv_transpose1d``.

    Args:
        input: (N, C, W), float16, bfloat16, float32 or float64, any strides.
        offset: (N, offset_groups*KW, W), at the *input's* positions. Broadcast
            (stride-0) arrays are read as they are.
        weight: (C, O/groups, KW).
        bias: (O,), or None.
        stride: a number, or a tuple of one.
        padding: elements to crop on each side of the output: a number, (width,), or
            ((left, right),).
        output_padding: added to the size of the output at the right; less than stride or dilation.
        dilation: distance of taps, a number or a tuple of one.
        mask: (N, offset_groups*KW, W), the factor of each sample, or None for 1. No
            sigmoid is applied.
        groups: groups of channels; it must divide C.

    All arrays share one library, dtype and device. ``O = groups * weight.shape[1]``, and
    ``offset_groups = offset.shape[1] // (KW)``, which must divide O, is inferred.

    Returns:
        (N, O, OW), an array of the same library, dtype and device.
        ``OW = (W - 1)*stride - left - right + dilation*(KW - 1) + 1 + output_padding``.

    Raises:
        TypeError: an argument is no array, arrays have different libraries or dtypes, or a dtype
            is not supported.
        ValueError: arrays are on different devices, shapes do not fit, or a size is impossible.

    Example:
        >>> import numpy as np, cudeform
        >>> signal = np.array([[[1.0, 2.0]]])
        >>> offset = np.zeros((1, 2, 2))
        >>> offset[:, 1] = 0.5  # the second tap adds half a sample further right
        >>> cudeform.deform_conv_transpose1d(signal, offset, np.ones((1, 1, 2)), stride=2)[0, 0]
        array([1. , 0.5, 2.5, 1. ])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    return call.forward(DEFORM_CONV_TRANSPOSE1D, operands, settings)


def deform_conv_transpose1d_backward(
    grad_output: Any,
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: TransposedPadding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    groups: int = 1,
    needs: Sequence[str] = GRADIENTS,
) -> Gradients:
    """Gradients of ``(grad_output * deform_conv_transpose1d(...)).sum()``.

    The conventions at integer coordinates and at the edge are as in :func:`deform_conv2d_backward`.

    Args:
        grad_output: (N, O, OW), same library, dtype and device as the input.
        input, offset, weight, bias, stride, padding, output_padding, dilation, mask, groups: as for
            :func:`deform_conv_transpose1d`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(input, offset, weight, bias, mask)``. A gradient has the shape and dtype of
        its argument; it is None if it is not needed or the argument is absent.

    Raises:
        TypeError, ValueError: as :func:`deform_conv_transpose1d`, or a name in ``needs`` that is no
            argument.

    Example:
        >>> import numpy as np, cudeform
        >>> signal, offset = np.array([[[1.0, 2.0]]]), np.zeros((1, 2, 2))
        >>> grad_output = np.array([[[0.0, 1.0, 4.0, 9.0]]])
        >>> grads = cudeform.deform_conv_transpose1d_backward(
        ...     grad_output, signal, offset, np.ones((1, 1, 2)), stride=2
        ... )
        >>> grads.input[0, 0]
        array([ 1., 13.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    grads: Gradients = call.backward(
        DEFORM_CONV_TRANSPOSE1D, operands, settings, grad_output, needs
    )
    return grads


def deform_conv_transpose1d_jvp(
    tangents: Tangents,
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: TransposedPadding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    groups: int = 1,
) -> Any:
    """Forward mode: the derivative of the output in the direction of ``tangents``.

    Args:
        tangents: :class:`cudeform.Tangents`: one direction for each argument, of its shape and
            dtype; None means zero.
        input, offset, weight, bias, stride, padding, output_padding, dilation, mask, groups: as for
            :func:`deform_conv_transpose1d`.

    Returns:
        Tangent of the output, (N, O, OW).

    Raises:
        TypeError, ValueError: as :func:`deform_conv_transpose1d`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> signal, offset = np.array([[[1.0, 2.0]]]), np.zeros((1, 2, 2))
        >>> derivatives.deform_conv_transpose1d_jvp(
        ...     Tangents(input=signal), signal, offset, np.ones((1, 1, 2)), stride=2
        ... )[0, 0]
        array([1., 1., 2., 2.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    return call.jvp(DEFORM_CONV_TRANSPOSE1D, operands, settings, tangents)


def deform_conv_transpose1d_double_backward(
    cotangents: Tangents,
    grad_output: Any,
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: TransposedPadding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    groups: int = 1,
    needs: Sequence[str] = DOUBLE_GRADIENTS,
) -> DoubleGradients:
    """Gradients of ``sum(cotangents * deform_conv_transpose1d_backward(...))``.

    Args:
        cotangents: :class:`cudeform.Tangents`: one cotangent for each gradient, of its shape and
            dtype; None means zero.
        grad_output: (N, O, OW), as for :func:`deform_conv_transpose1d_backward`.
        input, offset, weight, bias, stride, padding, output_padding, dilation, mask, groups: as for
            :func:`deform_conv_transpose1d`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, input, offset, weight, mask)``. There is no bias, because no
        gradient depends on it.

    Raises:
        TypeError, ValueError: as :func:`deform_conv_transpose1d_backward`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> signal, offset = np.array([[[1.0, 2.0]]]), np.zeros((1, 2, 2))
        >>> weight, ones = np.ones((1, 1, 2)), np.ones((1, 1, 4))
        >>> second = derivatives.deform_conv_transpose1d_double_backward(
        ...     Tangents(weight=weight), ones, signal, offset, weight, stride=2
        ... )
        >>> second.grad_output[0, 0]  # d/dc of sum(c * output)
        array([1., 1., 2., 2.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    directions = grad_output, cotangents
    grads: DoubleGradients = call.double_backward(
        DEFORM_CONV_TRANSPOSE1D, operands, settings, *directions, needs
    )
    return grads
