"""Transposed deformable convolution in three dimensions and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS
from cudeform.family import DEFORM_CONV_TRANSPOSE3D
from cudeform.operators import call
from cudeform.settings import Ints
from cudeform.transposed.geometry import TransposedPadding, TransposedSettings


def deform_conv_transpose3d(
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
    """Transposed deformable convolution in three dimensions: taps add at displaced positions.

    The counterpart of :func:`deform_conv_transpose2d` for volumes and video. The offset, viewed as
    ``(N, offset_groups, KD, KH, KW, 3, D, H, W)``, contains **dz, then dy, then dx**, in voxels of
    the output. Tap ``(h, i, j)`` of input position ``(iz, iy, ix)`` adds to the output at::

        z = iz * stride_d - pad_front + h * dilation_d + dz
        y = iy * stride_h - pad_top   + i * dilation_h + dy
        x = ix * stride_w - pad_left  + j * dilation_w + dx

    Each product is added to eight voxels, with trilinear weights; parts outside the output are
    discarded. Channel ``c`` of the output follows offset group ``c // (O / offset_groups)``. With
    zero offset and no mask it is ``torch.nn.functional.conv_transpose3d``.

    Args:
        input: (N, C, D, H, W), float16, bfloat16, float32 or float64, any strides.
        offset: (N, 3*offset_groups*KD*KH*KW, D, H, W), at the *input's* positions. Broadcast
            (stride-0) arrays are read as they are.
        weight: (C, O/groups, KD, KH, KW).
        bias: (O,), or None.
        stride: (depth, height, width), or one number for all.
        padding: elements to crop on each side of the output: a number, (depth, height, width),
            or ((front, back), (top, bottom), (left, right)).
        output_padding: slices, rows and columns added at the back, the bottom and the right;
            each less than stride or dilation.
        dilation: distance of taps, (depth, height, width), or one number for all.
        mask: (N, offset_groups*KD*KH*KW, D, H, W), the factor of each sample, or None for 1. No
            sigmoid is applied.
        groups: groups of channels; it must divide C.

    All arrays share one library, dtype and device. ``O = groups * weight.shape[1]``, and
    ``offset_groups = offset.shape[1] // (3*KD*KH*KW)``, which must divide O, is inferred.

    Returns:
        (N, O, OD, OH, OW), an array of the same library, dtype and device.
        Each size follows as in
        :func:`deform_conv_transpose2d`.

    Raises:
        TypeError: an argument is no array, arrays have different libraries or dtypes, or a dtype
            is not supported.
        ValueError: arrays are on different devices, shapes do not fit, or a size is impossible.

    Example:
        >>> import numpy as np, cudeform
        >>> volume = np.arange(1.0, 9.0).reshape(1, 1, 2, 2, 2)
        >>> offset = np.zeros((1, 3, 2, 2, 2))
        >>> offset[:, 0] = 1.0  # dz: every position adds one slice further
        >>> cudeform.deform_conv_transpose3d(volume, offset, np.ones((1, 1, 1, 1, 1)))[0, 0]
        array([[[0., 0.],
                [0., 0.]],
        <BLANKLINE>
               [[1., 2.],
                [3., 4.]]])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    return call.forward(DEFORM_CONV_TRANSPOSE3D, operands, settings)


def deform_conv_transpose3d_backward(
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
    """Gradients of ``(grad_output * deform_conv_transpose3d(...)).sum()``.

    The conventions at integer coordinates and at the edge are as in :func:`deform_conv2d_backward`.

    Args:
        grad_output: (N, O, OD, OH, OW), same library, dtype and device as the input.
        input, offset, weight, bias, stride, padding, output_padding, dilation, mask, groups: as for
            :func:`deform_conv_transpose3d`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(input, offset, weight, bias, mask)``. A gradient has the shape and dtype of
        its argument; it is None if it is not needed or the argument is absent.

    Raises:
        TypeError, ValueError: as :func:`deform_conv_transpose3d`, or a name in ``needs`` that is no
            argument.

    Example:
        >>> import numpy as np, cudeform
        >>> volume = np.arange(1.0, 9.0).reshape(1, 1, 2, 2, 2)
        >>> offset, weight = np.zeros((1, 3, 2, 2, 2)), np.ones((1, 1, 1, 1, 1))
        >>> grads = cudeform.deform_conv_transpose3d_backward(
        ...     np.ones_like(volume), volume, offset, weight
        ... )
        >>> float(grads.weight.sum())
        36.0
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    grads: Gradients = call.backward(
        DEFORM_CONV_TRANSPOSE3D, operands, settings, grad_output, needs
    )
    return grads


def deform_conv_transpose3d_jvp(
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
            :func:`deform_conv_transpose3d`.

    Returns:
        Tangent of the output, (N, O, OD, OH, OW).

    Raises:
        TypeError, ValueError: as :func:`deform_conv_transpose3d`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> volume = np.arange(1.0, 9.0).reshape(1, 1, 2, 2, 2)
        >>> offset, weight = np.zeros((1, 3, 2, 2, 2)), np.ones((1, 1, 1, 1, 1))
        >>> tangent = derivatives.deform_conv_transpose3d_jvp(
        ...     Tangents(weight=weight), volume, offset, weight
        ... )
        >>> bool((tangent == volume).all())
        True
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    return call.jvp(DEFORM_CONV_TRANSPOSE3D, operands, settings, tangents)


def deform_conv_transpose3d_double_backward(
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
    """Gradients of ``sum(cotangents * deform_conv_transpose3d_backward(...))``.

    Args:
        cotangents: :class:`cudeform.Tangents`: one cotangent for each gradient, of its shape and
            dtype; None means zero.
        grad_output: (N, O, OD, OH, OW), as for :func:`deform_conv_transpose3d_backward`.
        input, offset, weight, bias, stride, padding, output_padding, dilation, mask, groups: as for
            :func:`deform_conv_transpose3d`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, input, offset, weight, mask)``. There is no bias, because no
        gradient depends on it.

    Raises:
        TypeError, ValueError: as :func:`deform_conv_transpose3d_backward`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> volume = np.arange(1.0, 9.0).reshape(1, 1, 2, 2, 2)
        >>> offset, weight = np.zeros((1, 3, 2, 2, 2)), np.ones((1, 1, 1, 1, 1))
        >>> second = derivatives.deform_conv_transpose3d_double_backward(
        ...     Tangents(weight=weight), np.ones_like(volume), volume, offset, weight
        ... )
        >>> bool((second.grad_output == volume).all())
        True
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = TransposedSettings(stride, padding, output_padding, dilation, groups)
    directions = grad_output, cotangents
    grads: DoubleGradients = call.double_backward(
        DEFORM_CONV_TRANSPOSE3D, operands, settings, *directions, needs
    )
    return grads
