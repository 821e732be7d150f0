"""The three matrix products of a tile on the CPU, with weight groups.

Columns are ``(positions, taps * C)`` with channels fastest, so the weight is used with its taps
moved in front of its channels: ``(groups, O/groups, taps * C/groups)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.geometry import Geometry

Array = NDArray[Any]


def taps_first(g: Geometry, weight: Array, dtype: np.dtype[Any]) -> Array:
    """Weight (O, C/groups, KH, KW) as (groups, O/groups, taps * C/groups)."""
    moved = weight.transpose(0, 2, 3, 1).astype(dtype, order="C", copy=False)
    return moved.reshape(g.groups, g.out_channels // g.groups, g.taps * (g.channels // g.groups))


def channels_first(g: Geometry, weight: Array) -> Array:
    """The inverse of :func:`taps_first`: a view of shape (O, C/groups, KH, KW)."""
    moved = weight.reshape(g.out_channels, g.kernel_h, g.kernel_w, g.channels // g.groups)
    return moved.transpose(0, 3, 1, 2)


def output_of(g: Geometry, weight: Array, columns: Array) -> Array:
    """(O, positions) from columns (positions, taps * C)."""
    if g.groups == 1:
        return weight[0] @ columns.T
    return (weight @ _by_group(g, columns)).reshape(g.out_channels, -1)


def grad_columns_of(g: Geometry, weight: Array, grad_output: Array) -> Array:
    """Gradient of the columns, (positions, taps * C), from grad_output (O, positions)."""
    if g.groups == 1:
        return grad_output.T @ weight[0]
    positions = grad_output.shape[1]
    by_group = weight.swapaxes(1, 2) @ grad_output.reshape(g.groups, -1, positions)
    apart = by_group.reshape(g.groups, g.taps, -1, positions)
    return np.ascontiguousarray(apart.transpose(3, 1, 0, 2)).reshape(positions, -1)


def grad_weight_of(g: Geometry, grad_output: Array, columns: Array) -> Array:
    """Gradient of the taps-first weight from grad_output (O, positions) and the columns."""
    if g.groups == 1:
        return (grad_output @ columns)[None]
    positions = grad_output.shape[1]
    by_group = _by_group(g, columns).swapaxes(1, 2)
    return grad_output.reshape(g.groups, -1, positions) @ by_group


def _by_group(g: Geometry, columns: Array) -> Array:
    """Columns (positions, taps * C) as (groups, taps * C/groups, positions)."""
    positions = len(columns)
    apart = columns.reshape(positions, g.taps, g.groups, -1).transpose(2, 1, 3, 0)
    return np.ascontiguousarray(apart).reshape(g.groups, -1, positions)
