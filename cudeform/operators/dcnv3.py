"""DCNv3 and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DCNv3DoubleGradients, DCNv3Gradients, Operands
from cudeform.family import DCNV3
from cudeform.operators import call
from cudeform.settings import Ints, Padding
from cudeform.sums.settings import DCNv3Settings


def dcnv3(
    input: Any,
    offset: Any,
    mask: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Any:
    """DCNv3: each position adds up samples at displaced taps, group by group, without a filter.

    The operator of InternImage (Wang et al., "InternImage: Exploring Large-Scale Vision Foundation
    Models with Deformable Convolutions", CVPR 2023), with the results of its CUDA operator. Arrays
    are channels-last.

    An offset reshaped to ``(N, OH, OW, groups, P, 2)`` has a pair (dx, dy), **x first**, for each
    tap, in units of ``offset_scale`` pixels. Taps are numbered **column by column**: tap
    ``i*KH + j`` of output position ``(oy, ox)`` samples the input at::

        x = ox * stride_w - pad_left + center_x + ((i * dilation_w - center_x) + dx) * offset_scale
        y = oy * stride_h - pad_top  + center_y + ((j * dilation_h - center_y) + dy) * offset_scale

    with ``center = dilation * (kernel - 1) // 2``, by bilinear interpolation of the image extended
    by zeros; a sample is 0 unless ``-1 < y < H`` and ``-1 < x < W``. A NaN coordinate gives NaN, an
    infinite one is outside.

    Args:
        input: (N, H, W, C), float16, bfloat16, float32 or float64, any strides. Group ``g`` has
            channels ``g*C/groups`` to ``(g + 1)*C/groups``.
        offset: (N, OH, OW, groups*P*2); ``P = KH*KW``, less one without the centre.
        mask: (N, OH, OW, groups*P), the factor of each sample. No softmax is applied.
        kernel_size: vertical and horizontal, or one number for both.
        stride: vertical and horizontal, or one number for both.
        padding: zeros added on each side: a number, (vertical, horizontal), or
            ((top, bottom), (left, right)). Or "valid", none, or at stride 1 "same".
        dilation: vertical and horizontal distance of taps, or one number for both.
        offset_scale: factor of the grid about its centre, and of the offsets.
        remove_center: whether the tap in the centre is left out; the kernel must have odd sizes.

    All arrays share one library and device. They share one dtype, except that offset and mask may
    be float32 beside an input in float16 or bfloat16. ``groups = mask.shape[3] // P`` is inferred.

    Returns:
        (N, OH, OW, C), an array of the same library, device and dtype as the input.
        ``OH = (H + top + bottom - dilation_h*(KH - 1) - 1) // stride_h + 1``.

    Raises:
        TypeError: an argument that is no array, arrays of different libraries or dtypes, an
            unsupported dtype.
        ValueError: arrays on different devices, shapes that do not fit, an impossible size.

    Example:
        >>> import numpy as np, cudeform
        >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
        >>> offset, mask = np.zeros((1, 3, 3, 2)), np.ones((1, 3, 3, 1))
        >>> offset[..., 1] = 1.0  # dy: every position looks one row down
        >>> cudeform.dcnv3(image, offset, mask, kernel_size=1)[0, :, :, 0]
        array([[3., 4., 5.],
               [6., 7., 8.],
               [0., 0., 0.]])
    """
    operands = Operands(input, offset, mask=mask)
    settings = DCNv3Settings(kernel_size, stride, padding, dilation, offset_scale, remove_center)
    return call.forward(DCNV3, operands, settings)


def dcnv3_backward(
    grad_output: Any,
    input: Any,
    offset: Any,
    mask: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    needs: Sequence[str] = DCNv3Gradients._fields,
) -> DCNv3Gradients:
    """Gradients of ``(grad_output * dcnv3(...)).sum()``.

    At whole coordinates the gradient of the offset is the derivative to the right;
    ``cudeform.options(boundary_grad="zero")`` selects the other convention at the image's edge,
    that of InternImage's CUDA operator.

    Args:
        grad_output: (N, OH, OW, C), same library, dtype and device as the input.
        input, offset, mask, kernel_size, stride, padding, dilation, offset_scale, remove_center: as
            for :func:`dcnv3`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(input, offset, mask)``, each of its argument's shape and dtype, None where
        not needed.

    Raises:
        TypeError, ValueError: as :func:`dcnv3`, or a name in ``needs`` that is no argument.

    Example:
        >>> import numpy as np, cudeform
        >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
        >>> offset, mask = np.zeros((1, 3, 3, 2)), np.ones((1, 3, 3, 1))
        >>> grads = cudeform.dcnv3_backward(np.ones((1, 3, 3, 1)), image, offset, mask, 1)
        >>> grads.offset[0, 0, 0]  # d/dx, d/dy
        array([1., 3.])
    """
    operands = Operands(input, offset, mask=mask)
    settings = DCNv3Settings(kernel_size, stride, padding, dilation, offset_scale, remove_center)
    grads: DCNv3Gradients = call.backward(DCNV3, operands, settings, grad_output, needs)
    return grads


def dcnv3_jvp(
    tangents: DCNv3Gradients,
    input: Any,
    offset: Any,
    mask: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Any:
    """Forward mode: the derivative of the output in the direction of ``tangents``.

    Args:
        tangents: :class:`cudeform.DCNv3Gradients`: one direction for each argument, of its shape
            and dtype; None stands for zero.
        input, offset, mask, kernel_size, stride, padding, dilation, offset_scale, remove_center: as
            for :func:`dcnv3`.

    Returns:
        Tangent of the output, (N, OH, OW, C).

    Raises:
        TypeError, ValueError: as :func:`dcnv3`.

    Example:
        >>> import numpy as np
        >>> from cudeform import DCNv3Gradients, derivatives
        >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
        >>> offset, mask = np.zeros((1, 3, 3, 2)), np.ones((1, 3, 3, 1))
        >>> tangents = DCNv3Gradients(mask=mask)  # the output is linear in the mask
        >>> bool((derivatives.dcnv3_jvp(tangents, image, offset, mask, 1) == image).all())
        True
    """
    operands = Operands(input, offset, mask=mask)
    settings = DCNv3Settings(kernel_size, stride, padding, dilation, offset_scale, remove_center)
    return call.jvp(DCNV3, operands, settings, tangents)


def dcnv3_double_backward(
    cotangents: DCNv3Gradients,
    grad_output: Any,
    input: Any,
    offset: Any,
    mask: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    needs: Sequence[str] = DCNv3DoubleGradients._fields,
) -> DCNv3DoubleGradients:
    """Gradients of the gradients: of ``sum(cotangents * dcnv3_backward(...))``.

    Args:
        cotangents: :class:`cudeform.DCNv3Gradients`: one cotangent for each gradient, of its shape
            and dtype; None stands for zero.
        grad_output: (N, OH, OW, C), as for :func:`dcnv3_backward`.
        input, offset, mask, kernel_size, stride, padding, dilation, offset_scale, remove_center: as
            for :func:`dcnv3`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, input, offset, mask)``.

    Raises:
        TypeError, ValueError: as :func:`dcnv3_backward`.

    Example:
        >>> import numpy as np
        >>> from cudeform import DCNv3Gradients, derivatives
        >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
        >>> offset, mask = np.zeros((1, 3, 3, 2)), np.ones((1, 3, 3, 1))
        >>> second = derivatives.dcnv3_double_backward(
        ...     DCNv3Gradients(mask=mask), np.ones((1, 3, 3, 1)), image, offset, mask, 1
        ... )
        >>> bool((second.grad_output == image).all())  # d/dc of sum(c * image)
        True
    """
    operands = Operands(input, offset, mask=mask)
    settings = DCNv3Settings(kernel_size, stride, padding, dilation, offset_scale, remove_center)
    directions = grad_output, cotangents
    grads: DCNv3DoubleGradients = call.double_backward(
        DCNV3, operands, settings, *directions, needs
    )
    return grads
