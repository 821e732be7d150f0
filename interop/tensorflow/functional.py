"""Convolutions of tensors with channels last."""

from __future__ import annotations

from typing import Any

from cudeform.arrays import Operands
from cudeform.family import DEFORM_CONV1D, DEFORM_CONV2D, DEFORM_CONV3D
from cudeform.interop.adapter import adapter_of
from cudeform.settings import Ints, Padding, Settings, padding_of_shapes, plain
from cudeform.spec import Operator

from .adapter import ADAPTER
from .layout import LAYOUTS


def deform_conv1d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    data_format: str = "NWC",
) -> Any:
    """``cudeform.deform_conv1d`` on tensors whose channels come last, without transposes.

    Args:
        input: (N, W, C).
        offset: (N, OW, offset_groups*K).
        weight: (K, C/groups, O), as for ``tf.nn.conv1d``.
        bias: (O,), or None.
        stride, padding, dilation: as for ``cudeform.deform_conv1d``.
        mask: (N, OW, offset_groups*K), or None for 1.
        data_format: "NWC", or "NCW" for the shapes of ``cudeform.deform_conv1d``.

    Returns:
        (N, OW, O).

    Raises:
        TypeError, ValueError: as ``cudeform.deform_conv1d``, or another ``data_format``.

    Example:
        >>> import tensorflow as tf
        >>> signal, offset = tf.ones((1, 16, 3)), tf.zeros((1, 16, 5))
        >>> deform_conv1d(signal, offset, tf.ones((5, 3, 8)), padding=2).shape
        TensorShape([1, 16, 8])
    """
    operands = Operands(input, offset, weight, bias, mask)
    return _convolve(DEFORM_CONV1D, operands, Settings(stride, padding, dilation), data_format)


def deform_conv2d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    data_format: str = "NHWC",
) -> Any:
    """``cudeform.deform_conv2d`` on tensors whose channels come last, without transposes.

    Args:
        input: (N, H, W, C).
        offset: (N, OH, OW, 2*offset_groups*KH*KW), the channels in the order of
            ``cudeform.deform_conv2d``: dy, then dx, of each tap.
        weight: (KH, KW, C/groups, O), as for ``tf.nn.conv2d``.
        bias: (O,), or None.
        stride, padding, dilation: as for ``cudeform.deform_conv2d``.
        mask: (N, OH, OW, offset_groups*KH*KW), or None for 1.
        data_format: "NHWC", or "NCHW" for the shapes of ``cudeform.deform_conv2d``.

    Returns:
        (N, OH, OW, O).

    Raises:
        TypeError, ValueError: as ``cudeform.deform_conv2d``, or another ``data_format``.

    Example:
        >>> import tensorflow as tf
        >>> image, offset = tf.ones((1, 8, 8, 3)), tf.zeros((1, 8, 8, 18))
        >>> deform_conv2d(image, offset, tf.ones((3, 3, 3, 5)), padding=1).shape
        TensorShape([1, 8, 8, 5])
    """
    operands = Operands(input, offset, weight, bias, mask)
    return _convolve(DEFORM_CONV2D, operands, Settings(stride, padding, dilation), data_format)


def deform_conv3d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    data_format: str = "NDHWC",
) -> Any:
    """``cudeform.deform_conv3d`` on tensors whose channels come last, without transposes.

    Args:
        input: (N, D, H, W, C).
        offset: (N, OD, OH, OW, 3*offset_groups*KD*KH*KW), the channels in the order of
            ``cudeform.deform_conv3d``: dz, dy, then dx, of each tap.
        weight: (KD, KH, KW, C/groups, O), as for ``tf.nn.conv3d``.
        bias: (O,), or None.
        stride, padding, dilation: as for ``cudeform.deform_conv3d``.
        mask: (N, OD, OH, OW, offset_groups*KD*KH*KW), or None for 1.
        data_format: "NDHWC", or "NCDHW" for the shapes of ``cudeform.deform_conv3d``.

    Returns:
        (N, OD, OH, OW, O).

    Raises:
        TypeError, ValueError: as ``cudeform.deform_conv3d``, or another ``data_format``.

    Example:
        >>> import tensorflow as tf
        >>> volume, offset = tf.ones((1, 4, 6, 6, 3)), tf.zeros((1, 4, 6, 6, 3))
        >>> deform_conv3d(volume, offset, tf.ones((1, 1, 1, 3, 8))).shape
        TensorShape([1, 4, 6, 6, 8])
    """
    operands = Operands(input, offset, weight, bias, mask)
    return _convolve(DEFORM_CONV3D, operands, Settings(stride, padding, dilation), data_format)


def _convolve(operator: Operator, operands: Operands, settings: Settings, data_format: str) -> Any:
    layouts = LAYOUTS[operator.axes]
    if data_format not in layouts:
        raise ValueError(f"data_format must be one of {(*layouts,)}, got {data_format!r}")
    layout = layouts[data_format]
    if adapter_of(operands.present()) is not ADAPTER:
        got = type(operands.input).__name__
        raise TypeError(f"input must be a tensor of TensorFlow, got {got}")
    stride, padding, dilation = map(plain, settings)
    if isinstance(padding, str):
        in_shape = layout.inside("input", tuple(operands.input.shape))
        weight_shape = layout.inside("weight", tuple(operands.weight.shape))
        sizes = (in_shape, weight_shape, stride, dilation, operator.axes)
        padding = padding_of_shapes(padding, *sizes)
    return ADAPTER.forward(operator, operands, Settings(stride, padding, dilation), layout)
