"""Functions on Dask arrays, for arrays larger than memory and for several workers.

``cudeform``'s own functions take Dask arrays, and return lazy ones. All operators take chunks over
the batch; convolutions, if they are not transposed, take chunks over space too. If the offset has
several chunks in space, the graph depends on the largest displacement, which must be declared
before anything is computed: by ``cudeform.options(max_displacement=...)``, or by the argument of
the functions in this module. :func:`displacement_range` measures it. Blocks are NumPy or CuPy
arrays.
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
from cudeform.settings import Ints, Padding, Settings

from .adapter import ADAPTER

__all__ = ["ADAPTER", "deform_conv2d", "deform_conv2d_backward", "displacement_range"]


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
    max_displacement: Any = None,
) -> Any:
    """``cudeform.deform_conv2d`` on Dask arrays: lazy, with one task per chunk of the offset.

    Args:
        input, offset, weight, bias, stride, padding, dilation, mask: as for
            ``cudeform.deform_conv2d``. The offset's chunks determine those of the output; if the
            offset is no Dask array, the input's do. Other arguments are rechunked to match, and may
            be NumPy arrays.
        max_displacement: maximum displacement in pixels: a number, (vertical, horizontal), or
            ((up, down), (left, right)). A task that finds a larger displacement of a sample in the
            image raises ValueError. Required if the offset has several chunks in space; None uses
            the option in force.

    Returns:
        A Dask array (N, O, OH, OW) with the offset's chunks over the batch and over space.

    Raises:
        TypeError, ValueError: as for ``cudeform.deform_conv2d``, or a missing
            ``max_displacement``.

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
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    needs: Sequence[str] = GRADIENTS,
    max_displacement: Any = None,
) -> Gradients:
    """``cudeform.deform_conv2d_backward`` on Dask arrays: lazy gradients.

    Gradients of offset and mask are local to a chunk. The gradient of the input is the sum of
    overlapping windows, in a fixed order. The gradients of weight and bias are sums of one partial
    sum per chunk, along a fixed tree. So equal chunks give equal bits for any number of workers.
    Partial sums of 16-bit arrays are float32.

    Args:
        grad_output, input, offset, weight, bias, stride, padding, dilation, mask, needs: as for
            ``cudeform.deform_conv2d_backward``.
        max_displacement: as for :func:`deform_conv2d`.

    Returns:
        A named tuple of Dask arrays; the gradient of the input has the input's chunks.

    Raises:
        TypeError, ValueError: as for ``cudeform.deform_conv2d``, or a missing
            ``max_displacement``.
    """
    operands = Operands(input, offset, weight, bias, mask)
    needed = DEFORM_CONV2D.needed(needs, Gradients, operands)
    settings = Settings(stride, padding, dilation).resolved(input, weight, 2)
    with _bounded(max_displacement):
        return ADAPTER.backward(DEFORM_CONV2D, operands, settings, grad_output, needed)


def displacement_range(offset: Any) -> Any:
    """The range of the finite displacements of an offset, as a lazy Dask array.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), a Dask array.

    Returns:
        ((up, down), (left, right)), an array of shape (2, 2), not negative. Its computed value can
        be passed as ``max_displacement``.

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
        along = finite[:, axis::axes]
        ends.append(da.stack([da.maximum(-along.min(), 0), da.maximum(along.max(), 0)]))
    return da.stack(ends)


@contextmanager
def _bounded(max_displacement: Any) -> Iterator[None]:
    """The options in force, with ``max_displacement`` replaced unless it is None."""
    if max_displacement is None:
        yield
        return
    with options(max_displacement=max_displacement):
        yield
