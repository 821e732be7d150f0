"""The three products with the columns, computed by NumPy's BLAS, for any number of groups.

Columns are ``(groups, positions, taps * C/groups)``. The weight is rearranged to match them, with
its taps before its channels: ``(groups, O/groups, taps * C/groups)``. A depthwise weight needs no
matrix product, because each channel has its own factors; its columns are stored as one group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.geometry import Geometry
from cudeform.partition import split

Array = NDArray[Any]

# The gradient of a weight with at least DIVIDED_ELEMENTS elements is computed in this many parts.
WEIGHT_PARTS = 8
DIVIDED_ELEMENTS = 2**13


def is_depthwise(g: Geometry) -> bool:
    """Whether each output channel reads exactly one input channel, which no other reads."""
    return g.groups == g.channels == g.out_channels > 1


def columns_groups(g: Geometry) -> int:
    """Number of groups in which the columns are stored."""
    return 1 if is_depthwise(g) else g.groups


def taps_first(g: Geometry, weight: Array, dtype: np.dtype[Any]) -> Array:
    """Rearrange weight (O, C/groups, KH, KW) to (groups, O/groups, taps * C/groups).

    A depthwise weight becomes (taps, C).
    """
    if is_depthwise(g):
        return np.ascontiguousarray(weight.reshape(g.channels, g.taps).T, dtype)
    packed = np.moveaxis(weight, 1, -1).astype(dtype, order="C", copy=False)
    return packed.reshape(g.groups, g.out_channels // g.groups, g.taps * (g.channels // g.groups))


def taps_last(g: Geometry, weight: Array) -> Array:
    """The inverse of :func:`taps_first`: a view of shape (O, C/groups, KH, KW)."""
    if is_depthwise(g):
        return weight.T.reshape(g.channels, 1, *g.kernel)
    packed = weight.reshape(g.out_channels, *g.kernel, g.channels // g.groups)
    return np.moveaxis(packed, -1, 1)


def output_of(g: Geometry, weight: Array, columns: Array, out: Array) -> None:
    """Multiply columns by the weight: output (groups, positions, O/groups)."""
    if is_depthwise(g):
        by_tap = columns.reshape(-1, g.taps, g.channels)
        np.einsum("ptc,tc->pc", by_tap, weight, out=out.reshape(-1, g.channels))
        return
    np.matmul(columns, weight.swapaxes(1, 2), out=out)


def grad_columns_of(g: Geometry, weight: Array, grad_output: Array, out: Array) -> None:
    """Multiply grad_output (O, positions) by the weight: gradient of the columns."""
    if is_depthwise(g):
        by_position = np.ascontiguousarray(grad_output.T)[:, None]
        np.multiply(by_position, weight, out=out.reshape(-1, g.taps, g.channels))
        return
    by_group = grad_output.reshape(g.groups, -1, grad_output.shape[1])
    np.matmul(by_group.swapaxes(1, 2), weight, out=out)


def weight_parts(g: Geometry) -> list[slice]:
    """The parts of the weight whose gradients are computed in parallel.

    The parts depend on sizes alone, so the sums do not depend on the number of threads.
    """
    size = g.groups if g.groups > 1 else g.taps * g.channels
    elements = g.out_channels * g.taps * (g.channels // g.groups)
    return split(size, -(-size // WEIGHT_PARTS) if elements >= DIVIDED_ELEMENTS else size)


def add_grad_weight(
    g: Geometry, grad_output: Array, columns: Array, grad_weight: Array, part: slice
) -> None:
    """Accumulate grad_output (O, positions) times columns into one part of the gradient."""
    positions = grad_output.shape[1]
    if is_depthwise(g):
        by_position = np.ascontiguousarray(grad_output[part].T)
        by_tap = columns.reshape(positions, g.taps, g.channels)[:, :, part]
        grad_weight[:, part] += np.einsum("pc,ptc->tc", by_position, by_tap)
    elif g.groups == 1:
        grad_weight[0, :, part] += grad_output @ columns[0, :, part]
    else:
        by_group = grad_output.reshape(g.groups, -1, positions)
        grad_weight[part] += by_group[part] @ columns[part]
