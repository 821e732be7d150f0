"""The convolution on arrays of Keras's backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from cudeform.operators.deform_conv import deform_conv2d

BACKEND = keras.config.backend()


def convolve_last(images: Any, offset: Any, kernel: Any, bias: Any, *settings: Any) -> Any:
    """Convolve images (N, H, W, C).

    Args:
        images, offset, bias: arrays with channels last.
        kernel: (KH, KW, C/groups, O).
        settings: stride, padding and dilation as for ``cudeform.deform_conv2d``, and the mask.
    """
    if BACKEND == "tensorflow":
        from cudeform.interop import tensorflow

        return tensorflow.deform_conv2d(images, offset, kernel, bias, *settings)
    *sizes, mask = settings
    first = [None if a is None else ops.transpose(a, (0, 3, 1, 2)) for a in (images, offset, mask)]
    out = convolve_first(first[0], first[1], kernel, bias, *sizes, first[2])
    return ops.transpose(out, (0, 2, 3, 1))


def convolve_first(images: Any, offset: Any, kernel: Any, bias: Any, *settings: Any) -> Any:
    """Convolve images (N, C, H, W), with offset and mask (N, channels, OH, OW)."""
    return deform_conv2d(images, offset, ops.transpose(kernel, (3, 2, 0, 1)), bias, *settings)
