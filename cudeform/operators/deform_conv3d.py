"""Deformable convolution in three dimensions and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS
from cudeform.family import DEFORM_CONV3D
from cudeform.operators import call
from cudeform.settings import Ints, Padding, Settings


def deform_conv3d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
) -> Any:
    """Deformable convolution in three dimensions: taps sample a volume at displaced positions.

    What :func:`deform_conv2d` is for images, for volumes and video. The offset, seen as
    ``(N, offset_groups, KD, KH, KW, 3, OD, OH, OW)``, holds **dz, then dy, then dx**, in voxels.
    Tap ``(h, i, j)`` of output position ``(oz, oy, ox)`` samples the input at::

        z = oz * stride_d - pad_front + h * dilation_d + dz
        y = oy * stride_h - pad_top   + i * dilation_h + dy
        x = ox * stride_w - pad_left  + j * dilation_w + dx

    by trilinear interpolation of the volume extended by zeros; a sample is 0 unless
    ``-1 < z < D``, ``-1 < y < H`` and ``-1 < x < W``. Channel ``c`` follows offset group
    ``c // (C / offset_groups)``. A NaN coordinate gives NaN, an infinite one is outside. To keep
    taps in their slice, let dz be 0.

    Args:
        input: (N, C, D, H, W), float16, bfloat16, float32 or float64, any strides.
        offset: (N, 3*offset_groups*KD*KH*KW, OD, OH, OW), voxels. Broadcast (stride-0) arrays are
            read as they are.
        weight: (O, C/groups, KD, KH, KW).
        bias: (O,), or None.
        stride: (depth, height, width), or one number for all.
        padding: zeros added on each side: a number, (depth, height, width), or
            ((front, back), (top, bottom), (left, right)). Or "valid", none, or at stride 1 "same",
            which keeps the size: back, bottom and right get the larger half.
        dilation: distance of taps, (depth, height, width), or one number for all.
        mask: (N, offset_groups*KD*KH*KW, OD, OH, OW), the factor of each sample, or None for 1. No
            sigmoid is applied.

    All arrays share one library, dtype and device. ``groups = C // weight.shape[1]`` and
    ``offset_groups = offset.shape[1] // (3*KD*KH*KW)`` are inferred.

    Returns:
        (N, O, OD, OH, OW), an array of the same library, dtype and device. Each size follows as in
        :func:`deform_conv2d`.

    Raises:
        TypeError: an argument that is no array, arrays of different libraries or dtypes, an
            unsupported dtype.
        ValueError: arrays on different devices, shapes that do not fit, an impossible size.

    Example:
        >>> import numpy as np, cudeform
        >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> offset = np.zeros((1, 3, 2, 2, 2))
        >>> offset[:, 0] = 1.0  # dz: every position looks one slice ahead
        >>> cudeform.deform_conv3d(volume, offset, np.ones((1, 1, 1, 1, 1)))[0, 0]
        array([[[4., 5.],
                [6., 7.]],
        <BLANKLINE>
               [[0., 0.],
                [0., 0.]]])
    """
    operands = Operands(input, offset, weight, bias, mask)
    return call.forward(DEFORM_CONV3D, operands, Settings(stride, padding, dilation))


def deform_conv3d_backward(
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
    """Gradients of ``(grad_output * deform_conv3d(...)).sum()``.

    Conventions at whole coordinates and at the edge are those of :func:`deform_conv2d_backward`.

    Args:
        grad_output: (N, O, OD, OH, OW), same library, dtype and device as the input.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv3d`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(input, offset, weight, bias, mask)``, each of its argument's shape and
        dtype, None where not needed or where there is no such argument.

    Raises:
        TypeError, ValueError: as :func:`deform_conv3d`, or a name in ``needs`` that is no argument.

    Example:
        >>> import numpy as np, cudeform
        >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> offset, weight = np.zeros((1, 3, 2, 2, 2)), np.ones((1, 1, 1, 1, 1))
        >>> ones = np.ones_like(volume)
        >>> grads = cudeform.deform_conv3d_backward(ones, volume, offset, weight)
        >>> grads.offset[0, :, 0, 0, 0]  # d/dz, d/dy, d/dx
        array([4., 2., 1.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = Settings(stride, padding, dilation)
    grads: Gradients = call.backward(DEFORM_CONV3D, operands, settings, grad_output, needs)
    return grads


def deform_conv3d_jvp(
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
            :func:`deform_conv3d`.

    Returns:
        Tangent of the output, (N, O, OD, OH, OW).

    Raises:
        TypeError, ValueError: as :func:`deform_conv3d`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> offset, weight = np.zeros((1, 3, 2, 2, 2)), np.ones((1, 1, 1, 1, 1))
        >>> ahead = np.zeros_like(offset)
        >>> ahead[:, 0] = 1.0  # dz grows everywhere
        >>> tangents = Tangents(offset=ahead)
        >>> float(derivatives.deform_conv3d_jvp(tangents, volume, offset, weight)[0, 0, 0, 0, 0])
        4.0
    """
    operands = Operands(input, offset, weight, bias, mask)
    return call.jvp(DEFORM_CONV3D, operands, Settings(stride, padding, dilation), tangents)


def deform_conv3d_double_backward(
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
    """Gradients of the gradients: of ``sum(cotangents * deform_conv3d_backward(...))``.

    Args:
        cotangents: :class:`cudeform.Tangents`: one cotangent for each gradient, of its shape and
            dtype; None stands for zero.
        grad_output: (N, O, OD, OH, OW), as for :func:`deform_conv3d_backward`.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv3d`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, input, offset, weight, mask)``. It has no bias: no gradient
        depends on the bias.

    Raises:
        TypeError, ValueError: as :func:`deform_conv3d_backward`.

    Example:
        >>> import numpy as np
        >>> from cudeform import Tangents, derivatives
        >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> offset, weight = np.zeros((1, 3, 2, 2, 2)), np.ones((1, 1, 1, 1, 1))
        >>> second = derivatives.deform_conv3d_double_backward(
        ...     Tangents(weight=weight), np.ones_like(volume), volume, offset, weight
        ... )
        >>> second.offset[0, :, 0, 0, 0]  # d/dz, d/dy, d/dx of sum(volume)
        array([4., 2., 1.])
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = Settings(stride, padding, dilation)
    grads: DoubleGradients = call.double_backward(
        DEFORM_CONV3D, operands, settings, grad_output, cotangents, needs
    )
    return grads
