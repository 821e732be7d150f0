"""The operators on tensors with channels last."""

from __future__ import annotations

from typing import Any

from cudeform.arrays import Operands
from cudeform.family import DEFORM_CONV2D
from cudeform.interop.adapter import adapter_of
from cudeform.settings import Ints, Padding, Settings, padding_of_shapes, plain

from .adapter import ADAPTER
from .layout import NCHW, NHWC

LAYOUTS = {"NCHW": NCHW, "NHWC": NHWC}


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
    if data_format not in LAYOUTS:
        raise ValueError(f"data_format must be one of {(*LAYOUTS,)}, got {data_format!r}")
    layout = LAYOUTS[data_format]
    operands = Operands(input, offset, weight, bias, mask)
    if adapter_of(operands.present()) is not ADAPTER:
        raise TypeError(f"input must be a tensor of TensorFlow, got {type(input).__name__}")
    stride, padding, dilation = plain(stride), plain(padding), plain(dilation)
    if isinstance(padding, str):
        in_shape = layout.inside("input", tuple(input.shape))
        weight_shape = layout.inside("weight", tuple(weight.shape))
        padding = padding_of_shapes(padding, in_shape, weight_shape, stride, dilation, 2)
    return ADAPTER.forward(DEFORM_CONV2D, operands, Settings(stride, padding, dilation), layout)
