"""DCNv4 and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DCNv4DoubleGradients, DCNv4Gradients, Operands
from cudeform.family import DCNV4
from cudeform.operators import call
from cudeform.settings import Ints, Padding
from cudeform.sums.settings import DCNv4Settings


def dcnv4(
    input: Any,
    offset_mask: Any,
    kernel_size: Ints,
    groups: int,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Any:
    """DCNv4: DCNv3 whose offsets and masks come in one array.

    The operator of Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse
    Operator for Vision Applications", CVPR 2024. Arrays are channels-last. Taps, coordinates and
    their order, **x first**, are those of :func:`dcnv3`.

    A row of ``offset_mask`` has, for each group, P pairs (dx, dy) and then P masks. What follows
    the last group is ignored: the paper's layers make rows whose length is a multiple of 8.

    Args:
        input: (N, H, W, C), float16, bfloat16, float32 or float64, any strides. Group ``g`` has
            channels ``g*C/groups`` to ``(g + 1)*C/groups``.
        offset_mask: (N, OH, OW, R) with ``R >= groups*P*3``; ``P = KH*KW``, less one without the
            centre. No softmax is applied to the masks.
        kernel_size: vertical and horizontal, or one number for both.
        groups: number of groups of channels; it must divide C.
        stride: vertical and horizontal, or one number for both.
        padding: zeros added on each side: a number, (vertical, horizontal), or
            ((top, bottom), (left, right)). Or "valid", none, or at stride 1 "same".
        dilation: vertical and horizontal distance of taps, or one number for both.
        offset_scale: factor of the grid about its centre, and of the offsets.
        remove_center: whether the tap in the centre is left out; the kernel must have odd sizes.

    Both arrays share one library and device. They share one dtype, except that ``offset_mask`` may
    be float32 beside an input in float16 or bfloat16.

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
        >>> rows = np.zeros((1, 3, 3, 8))
        >>> rows[..., :3] = 0.0, 1.0, 1.0  # dx, dy, mask: every position looks one row down
        >>> cudeform.dcnv4(image, rows, kernel_size=1, groups=1)[0, :, :, 0]
        array([[3., 4., 5.],
               [6., 7., 8.],
               [0., 0., 0.]])
    """
    operands = Operands(input, offset_mask)
    grid = kernel_size, groups, stride, padding, dilation, offset_scale, remove_center
    return call.forward(DCNV4, operands, DCNv4Settings(*grid))


def dcnv4_backward(
    grad_output: Any,
    input: Any,
    offset_mask: Any,
    kernel_size: Ints,
    groups: int,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    needs: Sequence[str] = DCNv4Gradients._fields,
) -> DCNv4Gradients:
    """Gradients of ``(grad_output * dcnv4(...)).sum()``.

    At whole coordinates the gradient of an offset is the derivative to the right;
    ``cudeform.options(boundary_grad="zero")`` selects the other convention at the image's edge,
    that of the paper's CUDA operator.

    Args:
        grad_output: (N, OH, OW, C), same library, dtype and device as the input.
        input, offset_mask, kernel_size, groups: as for :func:`dcnv4`.
        stride, padding, dilation, offset_scale, remove_center: as for :func:`dcnv4`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(input, offset_mask)``, each of its argument's shape and dtype, None where
        not needed. The end of a row that is ignored has gradient 0.

    Raises:
        TypeError, ValueError: as :func:`dcnv4`, or a name in ``needs`` that is no argument.

    Example:
        >>> import numpy as np, cudeform
        >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
        >>> rows = np.zeros((1, 3, 3, 3))
        >>> rows[..., 2] = 1.0
        >>> grads = cudeform.dcnv4_backward(np.ones((1, 3, 3, 1)), image, rows, 1, 1)
        >>> grads.offset_mask[0, 1, 1]  # d/dx, d/dy, d/dmask
        array([1., 3., 4.])
    """
    operands = Operands(input, offset_mask)
    grid = kernel_size, groups, stride, padding, dilation, offset_scale, remove_center
    grads: DCNv4Gradients = call.backward(DCNV4, operands, DCNv4Settings(*grid), grad_output, needs)
    return grads


def dcnv4_jvp(
    tangents: DCNv4Gradients,
    input: Any,
    offset_mask: Any,
    kernel_size: Ints,
    groups: int,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Any:
    """Forward mode: the derivative of the output in the direction of ``tangents``.

    Args:
        tangents: :class:`cudeform.DCNv4Gradients`: one direction for each argument, of its shape
            and dtype; None stands for zero.
        input, offset_mask, kernel_size, groups: as for :func:`dcnv4`.
        stride, padding, dilation, offset_scale, remove_center: as for :func:`dcnv4`.

    Returns:
        Tangent of the output, (N, OH, OW, C).

    Raises:
        TypeError, ValueError: as :func:`dcnv4`.

    Example:
        >>> import numpy as np
        >>> from cudeform import DCNv4Gradients, derivatives
        >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
        >>> rows = np.zeros((1, 3, 3, 3))
        >>> rows[..., 2] = 1.0
        >>> tangents = DCNv4Gradients(offset_mask=rows)  # the output is linear in the masks
        >>> bool((derivatives.dcnv4_jvp(tangents, image, rows, 1, 1) == image).all())
        True
    """
    operands = Operands(input, offset_mask)
    grid = kernel_size, groups, stride, padding, dilation, offset_scale, remove_center
    return call.jvp(DCNV4, operands, DCNv4Settings(*grid), tangents)


def dcnv4_double_backward(
    cotangents: DCNv4Gradients,
    grad_output: Any,
    input: Any,
    offset_mask: Any,
    kernel_size: Ints,
    groups: int,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    needs: Sequence[str] = DCNv4DoubleGradients._fields,
) -> DCNv4DoubleGradients:
    """Gradients of the gradients: of ``sum(cotangents * dcnv4_backward(...))``.

    Args:
        cotangents: :class:`cudeform.DCNv4Gradients`: one cotangent for each gradient, of its shape
            and dtype; None stands for zero.
        grad_output: (N, OH, OW, C), as for :func:`dcnv4_backward`.
        input, offset_mask, kernel_size, groups: as for :func:`dcnv4`.
        stride, padding, dilation, offset_scale, remove_center: as for :func:`dcnv4`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, input, offset_mask)``.

    Raises:
        TypeError, ValueError: as :func:`dcnv4_backward`.

    Example:
        >>> import numpy as np
        >>> from cudeform import DCNv4Gradients, derivatives
        >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
        >>> rows = np.zeros((1, 3, 3, 3))
        >>> rows[..., 2] = 1.0
        >>> second = derivatives.dcnv4_double_backward(
        ...     DCNv4Gradients(offset_mask=rows), np.ones((1, 3, 3, 1)), image, rows, 1, 1
        ... )
        >>> bool((second.grad_output == image).all())  # d/dc of sum(c * image)
        True
    """
    operands = Operands(input, offset_mask)
    grid = kernel_size, groups, stride, padding, dilation, offset_scale, remove_center
    directions = grad_output, cotangents
    grads: DCNv4DoubleGradients = call.double_backward(
        DCNV4, operands, DCNv4Settings(*grid), *directions, needs
    )
    return grads
