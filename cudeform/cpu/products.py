"""The three products of a tile's columns on the CPU, with weight groups.

Columns are ``(positions, taps, C)``, so the weight is used with its taps moved in front of its
channels: ``(groups, O/groups, taps * C/groups)``. A depthwise weight needs no matrix product: each
channel is multiplied by numbers of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.geometry import Geometry
from cudeform.partition import split

Array = NDArray[Any]

WEIGHT_PARTS = 8


def taps_first(g: Geometry, weight: Array, dtype: np.dtype[Any]) -> Array:
    """Weight (O, C/groups, KH, KW) as (groups, O/groups, taps * C/groups)."""
    moved = weight.transpose(0, 2, 3, 1).astype(dtype, order="C", copy=False)
    return moved.reshape(g.groups, g.out_channels // g.groups, g.taps * (g.channels // g.groups))


def channels_first(g: Geometry, weight: Array) -> Array:
    """The inverse of :func:`taps_first`: a view of shape (O, C/groups, KH, KW)."""
    moved = weight.reshape(g.out_channels, g.kernel_h, g.kernel_w, g.channels // g.groups)
    return moved.transpose(0, 3, 1, 2)


def is_depthwise(g: Geometry) -> bool:
    """Whether each output channel has an input channel of its own."""
    return g.groups == g.channels == g.out_channels > 1


def output_of(g: Geometry, weight: Array, columns: Array) -> Array:
    """(O, positions) from columns (positions, taps * C)."""
    output: Array
    if g.groups == 1:
        output = weight[0] @ columns.T
        return output
    positions = len(columns)
    if is_depthwise(g):
        output = np.einsum("ptc,ct->pc", columns.reshape(positions, g.taps, -1), weight[:, 0])
        return output.T
    output = weight @ _by_group(g, columns, slice(None))
    return output.reshape(g.out_channels, positions)


def grad_columns_of(g: Geometry, weight: Array, grad_output: Array) -> Array:
    """Gradient of the columns, (positions, taps * C), from grad_output (O, positions)."""
    grad_columns: Array
    if g.groups == 1:
        grad_columns = grad_output.T @ weight[0]
        return grad_columns
    positions = grad_output.shape[1]
    if is_depthwise(g):
        by_position = np.ascontiguousarray(grad_output.T)[:, None]
        grad_columns = by_position * np.ascontiguousarray(weight[:, 0].T)
        return grad_columns.reshape(positions, -1)
    by_group = weight.swapaxes(1, 2) @ grad_output.reshape(g.groups, -1, positions)
    apart = by_group.reshape(g.groups, g.taps, -1, positions)
    return np.ascontiguousarray(apart.transpose(3, 1, 0, 2)).reshape(positions, -1)


def weight_parts(g: Geometry) -> list[slice]:
    """Parts of the taps-first weight whose gradients are worked out side by side.

    They depend on the sizes alone, so that the sums do not depend on the number of threads.
    """
    size = g.groups if g.groups > 1 else g.taps * g.channels
    return split(size, -(-size // WEIGHT_PARTS))


def add_grad_weight(
    g: Geometry, grad_output: Array, columns: Array, grad_weight: Array, part: slice
) -> None:
    """Add to one part of the taps-first gradient, from grad_output (O, positions)."""
    if g.groups == 1:
        grad_weight[0, :, part] += grad_output @ columns[:, part]
        return
    positions = len(columns)
    if is_depthwise(g):
        by_position = np.ascontiguousarray(grad_output[part].T)
        apart = columns.reshape(positions, g.taps, -1)[:, :, part]
        grad_weight[part, 0] += np.einsum("pc,ptc->tc", by_position, apart).T
        return
    by_group = _by_group(g, columns, part).swapaxes(1, 2)
    grad_weight[part] += grad_output.reshape(g.groups, -1, positions)[part] @ by_group


def _by_group(g: Geometry, columns: Array, part: slice) -> Array:
    """Columns (positions, taps * C) as (groups, taps * C/groups, positions), for some groups."""
    positions = len(columns)
    apart = columns.reshape(positions, g.taps, g.groups, -1)[:, :, part].transpose(2, 1, 3, 0)
    return np.ascontiguousarray(apart).reshape(len(apart), -1, positions)
