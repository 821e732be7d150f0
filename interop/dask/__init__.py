"""Dask arrays: calls that are larger than memory, or that many workers share.

``cudeform``'s own functions take Dask arrays and return lazy ones. Where the offset has several
chunks in space, a task has to know how far displacements reach before it has seen them:
``cudeform.options(max_displacement=...)`` says so, and the functions here take it as an argument.
:func:`displacement_range` measures it. Blocks may be NumPy's or CuPy's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask.array as da

from cudeform.arrays import Gradients, Operands
from cudeform.checks import GRADIENTS
from cudeform.family import DEFORM_CONV2D
from cudeform.options import options
from cudeform.settings import Padding, Pair, Settings

from .adapter import ADAPTER

__all__ = ["ADAPTER", "deform_conv2d", "deform_conv2d_backward", "displacement_range"]


def deform_conv2d(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Any = None,
    *,
    max_displacement: Any = None,
) -> Any:
    """``cudeform.deform_conv2d`` of Dask arrays: lazy, one task for each chunk of the offset.

    Args:
        input, offset, weight, bias, stride, padding, dilation, mask: as there. Chunks may differ
            between arguments; those of the offset, or of the input where the offset is no Dask
            array, decide. NumPy arrays may come beside Dask arrays.
        max_displacement: how far, in pixels, an offset may reach: a number, (vertical, horizontal),
            or ((up, down), (left, right)). A task whose offset goes further for a sample in the
            image raises ValueError. None takes the option in force; it is needed where the offset
            has several chunks in space.

    Returns:
        A Dask array (N, O, OH, OW) with the offset's chunks over the batch and over space.

    Raises:
        TypeError, ValueError: as there, or a missing ``max_displacement``.

    Example:
        >>> import dask.array as da, numpy as np
        >>> from cudeform.interop.dask import deform_conv2d
        >>> image = da.ones((1, 1, 64, 64), chunks=(1, 1, 32, 32))
        >>> offset = da.zeros((1, 2, 64, 64), chunks=(1, 2, 32, 32))
        >>> output = deform_conv2d(image, offset, np.ones((1, 1, 1, 1)), max_displacement=4)
        >>> output.chunks[2:], float(output.sum().compute())
        (((32, 32), (32, 32)), 4096.0)
    """
    operands = Operands(input, offset, weight, bias, mask)
    settings = Settings(stride, padding, dilation).resolved(input, weight, 2)
    with _bounded(max_displacement):
        return ADAPTER.forward(DEFORM_CONV2D, operands, settings)


def deform_conv2d_backward(
    grad_output: Any,
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Any = None,
    *,
    needs: Sequence[str] = GRADIENTS,
    max_displacement: Any = None,
) -> Gradients:
    """``cudeform.deform_conv2d_backward`` of Dask arrays: lazy gradients.

    Gradients of the offset and the mask are local to a chunk. That of the input adds overlapping
    windows in a fixed order, those of weight and bias add a partial sum of each chunk by a fixed
    tree: the same chunks give the same bits, whatever the number of workers. Partial sums of 16-bit
    arrays are float32.

    Args:
        grad_output, input, offset, weight, bias, stride, padding, dilation, mask, needs: as there.
        max_displacement: as for :func:`deform_conv2d`.

    Returns:
        A named tuple of Dask arrays; the gradient of the input has the input's chunks.

    Raises:
        TypeError, ValueError: as there, or a missing ``max_displacement``.
    """
    operands = Operands(input, offset, weight, bias, mask)
    needed = DEFORM_CONV2D.needed(needs, Gradients, operands)
    settings = Settings(stride, padding, dilation).resolved(input, weight, 2)
    with _bounded(max_displacement):
        return ADAPTER.backward(DEFORM_CONV2D, operands, settings, grad_output, needed)


def displacement_range(offset: Any) -> Any:
    """How far the finite displacements of an offset reach, as a lazy Dask array.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), a Dask array.

    Returns:
        ((up, down), (left, right)), shape (2, 2), of at least 0. Computed once, it can be passed as
        ``max_displacement``.

    Example:
        >>> import dask.array as da
        >>> from cudeform.interop.dask import displacement_range
        >>> offset = da.arange(-3.0, 5.0).reshape((1, 2, 2, 2))
        >>> displacement_range(offset).compute().tolist()
        [[3.0, 0.0], [0.0, 4.0]]
    """
    axes = offset.ndim - 2
    finite = da.where(da.isfinite(offset), offset, 0)
    ends = []
    for axis in range(axes):
        moved = finite[:, axis::axes]
        ends.append(da.stack([da.maximum(-moved.min(), 0), da.maximum(moved.max(), 0)]))
    return da.stack(ends)


@contextmanager
def _bounded(max_displacement: Any) -> Iterator[None]:
    """The options in force, with a bound for displacements if there is one."""
    if max_displacement is None:
        yield
        return
    with options(max_displacement=max_displacement):
        yield
