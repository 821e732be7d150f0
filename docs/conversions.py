"""Offsets of other libraries as cudeform, torchvision, mmcv, Paddle and ONNX order them.

Each function is a line or two to copy; ``tests/docs/test_docs.py`` compares each with a loop over
the other library's definition. ``theirs`` is an array of NumPy, CuPy or JAX.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def from_chainer(theirs: Any) -> Any:
    """Chainer: all x, then all y; taps row by row."""
    return np.stack(np.split(theirs, 2, axis=1)[::-1], axis=2).reshape(theirs.shape)


def from_mindspore(theirs: Any) -> tuple[Any, Any]:
    """MindSpore: all x, then all y, then the mask; taps row by row. To offset and mask."""
    x, y, mask = np.split(theirs, 3, axis=1)
    return np.stack((y, x), axis=2).reshape(len(theirs), -1, *theirs.shape[2:]), mask


def from_planes(theirs: Any) -> Any:
    """4uiiurz1 and its descendants: all y, then all x (called "x" and "y" in the code)."""
    return np.stack(np.split(theirs, 2, axis=1), axis=2).reshape(theirs.shape)


def from_nhwc(theirs: Any) -> Any:
    """Keras-style layers: (N, OH, OW, 2*OG*KH*KW), (y, x) pairs."""
    return theirs.transpose(0, 3, 1, 2)


def from_groups_last(theirs: Any, groups: int) -> Any:
    """DHZS's and mvoelk's Keras layers: (N, OH, OW, KH*KW*OG*2), the group after the tap."""
    n, oh, ow, _ = theirs.shape
    pairs = theirs.reshape(n, oh, ow, -1, groups, 2)
    return pairs.transpose(0, 4, 3, 5, 1, 2).reshape(n, -1, oh, ow)


def from_dcnv3(theirs: Any, groups: int, kernel: int) -> Any:
    """DCNv3: (N, OH, OW, G*K*K*2), (x, y) pairs, taps column by column; offset_scale 1."""
    n, oh, ow, _ = theirs.shape
    pairs = theirs.reshape(n, oh, ow, groups, kernel, kernel, 2)[..., ::-1]
    return pairs.transpose(0, 3, 5, 4, 6, 1, 2).reshape(n, -1, oh, ow)


def mask_from_dcnv3(theirs: Any, groups: int, kernel: int) -> Any:
    """DCNv3's mask after its softmax: (N, OH, OW, G*K*K), taps column by column."""
    n, oh, ow, _ = theirs.shape
    taps = theirs.reshape(n, oh, ow, groups, kernel, kernel)
    return taps.transpose(0, 3, 5, 4, 1, 2).reshape(n, -1, oh, ow)


def from_dcnv4(theirs: Any, groups: int, kernel: int) -> tuple[Any, Any]:
    """DCNv4: (N, OH, OW, padded), for each group 2*K*K offsets, then K*K masks; to DCNv3's."""
    n, oh, ow, _ = theirs.shape
    taps = kernel * kernel
    rows = theirs[..., : 3 * groups * taps].reshape(n, oh, ow, groups, 3 * taps)
    offset, mask = rows[..., : 2 * taps], rows[..., 2 * taps :]
    return offset.reshape(n, oh, ow, -1), mask.reshape(n, oh, ow, -1)


def scaled(offset: Any, kernel: int, scale: float, dilation: int = 1) -> Any:
    """DCNv3's and DCNv4's offset_scale, which stretches the grid as well as the offsets."""
    n, channels, oh, ow = offset.shape
    grid = dilation * (np.stack(np.mgrid[:kernel, :kernel], axis=2) - (kernel - 1) // 2)
    grid = grid.reshape(1, 1, -1, 1, 1).astype(offset.dtype)
    pairs = offset.reshape(n, -1, 2 * kernel * kernel, oh, ow)
    return (scale * pairs + (scale - 1) * grid).reshape(n, channels, oh, ow)
