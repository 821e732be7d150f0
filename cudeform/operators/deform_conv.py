"""Deformable convolution in two dimensions and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS
from cudeform.family import DEFORM_CONV2D
from cudeform.operators import call
from cudeform.settings import Ints, Padding, Settings


def deform_conv2d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
) -> Any:
    """Deformable convolution: each tap samples the input at a displaced position.

    DCNv1 (Dai et al., "Deformable Convolutional Networks", ICCV 2017) without a mask, DCNv2 (Zhu et
    al., "Deformable ConvNets v2", CVPR 2019) with one. Arguments, order and defaults are those of
    ``torchvision.ops.deform_conv2d``, and so are the results.

    The offset, viewed as ``(N, offset_groups, KH, KW, 2, OH, OW)``, contains **dy first, then dx**,
    in pixels. Tap ``(i, j)`` of output position ``(oy, ox)`` samples the input at::

        y = oy * stride_h - pad_top  + i * dilation_h + dy
        x = ox * stride_w - pad_left + j * dilation_w + dx

    by bilinear interpolation of the image extended by zeros; a sample is 0 unless ``-1 < y < H``
    and ``-1 < x < W``. Channel ``c`` follows offset group ``c // (C / offset_groups)``. A NaN
    coordinate gives NaN, an infinite one is outside.

    Args:
        input: (N, C, H, W), float16, bfloat16, float32 or float64, any strides.
        offset: (N, 2*offset_groups*KH*KW, OH, OW), pixels. Broadcast (stride-0) arrays are read as
            they are.
        weight: (O, C/groups, KH, KW).
        bias: (O,), or None.
        stride: vertical and horizontal, or one number for both.
        padding: zeros added on each side: a number, (vertical, horizontal), or ((top, bottom),
            (left, right)). "valid" means no padding. "same", at stride 1 only, keeps the size;
            bottom and right get the larger half.
        dilation: vertical and horizontal distance of taps, or one number for both.
        mask: (N, offset_groups*KH*KW, OH, OW), the factor of each sample, or None for 1. No
            sigmoid is applied.

    All arrays share one library, dtype and device. ``groups = C // weight.shape[1]`` and
    ``offset_groups = offset.shape[1] // (2*KH*KW)`` are inferred.

    Returns:
        (N, O, OH, OW), an array of the same library, dtype and device.
        ``OH = (H + top + bottom - dilation_h*(KH - 1) - 1) // stride_h + 1``.

    Raises:
        TypeError: an argument is no array, arrays have different libraries or dtypes, or a dtype
            is not supported.
        ValueError: arrays are on different devices, shapes do not fit, or a size is impossible.

    Example:
        >>> import numpy as np, cudeform
        >>> image = np.arange(9.0).reshape(1, 1, 3, 3)
        >>> offset = np.zeros((1, 2, 3, 3))
        >>> offset[:, 0] = 1.0  # dy: every position looks one row down
        >>> cudeform.deform_conv2d(image, offset, np.ones((1, 1, 1, 1)))[0, 0]
        array([[3., 4., 5.],
               [6., 7., 8.],
               [0., 0., 0.]])
    """
    operands = Operands(input, offset, weight, bias, mask)
    return call.forward(DEFORM_CONV2D, operands, Settings(stride, padding, dilation))


def deform_conv2d_backward(
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
    """Gradients of ``(grad_output * deform_conv2d(...)).sum()``.

    Args:
        grad_output: (N, O, OH, OW), same library, dtype and device as the input.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv2d`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(input, offset, weight, bias, mask)``. A gradient has the shape and dtype of
        its argument; it is None if it is not needed or the argument is absent.

    At integer coordinates the gradient of the offset is the derivative to the right, as in
    torchvision; ``cudeform.options(boundary_grad="zero")`` selects the other convention at the
    image's edge. There are two deliberate differences from torchvision. The side is decided by the
    offset alone, so an offset of -1e-9 is to the left of a pixel in float32 too. A sample outside
    of the image has zero gradients even if ``grad_output`` is not finite.

    Raises:
        TypeError, ValueError: as :func:`deform_conv2d`, or a name in ``needs`` that is no argument.

    Example:
        >>> import numpy as np, cudeform
        >>> image = np.arange(9.0).reshape(1, 1, 3, 3)
        >>> offset, weight = np.zeros((1, 2, 3, 3)), np.ones((1, 1, 1, 1))
        >>> grads = cudeform.deform_conv2d_backward(
        ...     np.ones((1, 1, 3, 3)), image, offset, weight, needs=("offset",)
        ... )
        >>> float(grads.offset[0, 0, 0, 0]), float(grads.offset[0, 1, 0, 0])  # d/dy, d/dx
        (3.0, 1.0)
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = Settings(stride, padding, dilation)
    grads: Gradients = call.backward(DEFORM_CONV2D, operands, settings, grad_output, needs)
    return grads


def deform_conv2d_jvp(
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
        tangents: :class:`cudeform.Tangents`, ``cudeform.Tangents(input=..., offset=...)``: one
            direction for each argument, of its shape and dtype; None means zero.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv2d`.

    Returns:
        Tangent of the output, (N, O, OH, OW).

    Raises:
        TypeError, ValueError: as :func:`deform_conv2d`.

    Example:
        >>> import numpy as np, cudeform
        >>> image = np.arange(9.0).reshape(1, 1, 3, 3)
        >>> offset, weight = np.zeros((1, 2, 3, 3)), np.ones((1, 1, 1, 1))
        >>> down = np.zeros_like(offset)
        >>> down[:, 0] = 1.0  # dy grows everywhere
        >>> tangents = cudeform.Tangents(offset=down)
        >>> float(cudeform.deform_conv2d_jvp(tangents, image, offset, weight)[0, 0, 0, 0])
        3.0
    """
    operands = Operands(input, offset, weight, bias, mask)
    return call.jvp(DEFORM_CONV2D, operands, Settings(stride, padding, dilation), tangents)


def deform_conv2d_double_backward(
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
    """Gradients of ``sum(cotangents * deform_conv2d_backward(...))``.

    Args:
        cotangents: :class:`cudeform.Tangents`: one cotangent for each gradient, of its shape and
            dtype; None means zero.
        grad_output: (N, O, OH, OW), as for :func:`deform_conv2d_backward`.
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            :func:`deform_conv2d`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, input, offset, weight, mask)``. There is no bias, because no
        gradient depends on it.

    Raises:
        TypeError, ValueError: as :func:`deform_conv2d_backward`.

    Example:
        >>> import numpy as np, cudeform
        >>> image = np.arange(9.0).reshape(1, 1, 3, 3)
        >>> offset, weight = np.zeros((1, 2, 3, 3)), np.ones((1, 1, 1, 1))
        >>> ones = np.ones((1, 1, 3, 3))
        >>> second = cudeform.deform_conv2d_double_backward(
        ...     cudeform.Tangents(weight=weight), ones, image, offset, weight
        ... )
        >>> bool((second.grad_output == image).all())  # d/dc of sum(c * image)
        True
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = Settings(stride, padding, dilation)
    grads: DoubleGradients = call.double_backward(
        DEFORM_CONV2D, operands, settings, grad_output, cotangents, needs
    )
    return grads
