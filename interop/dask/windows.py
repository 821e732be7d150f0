"""Overlapping windows of an axis as the blocks of a Dask array, and the transpose: their sum.

The functions handle one axis at a time, so the number of layers of a graph grows with the sum, not
with the product, of the numbers of windows along the axes. They use only public functions of Dask.
A window may reach beyond the adjacent chunks. Nothing here is specific to convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import dask.array as da

from cudeform.geometry import Span


def borders(chunks: Sequence[int]) -> tuple[int, ...]:
    """The begin of each chunk, and the end of the last one."""
    return tuple(accumulate(chunks, initial=0))


def windows(array: Any, first_axis: int, spans: Sequence[Sequence[Span]]) -> Any:
    """An array whose blocks along the last axes are these parts of ``array``, in their order.

    A window is cut from the array along all axes at once, so that it is copied once, and so that
    there is one task for each of its pieces. Concatenating along one axis after the other would
    make a task for each piece and axis, and fewer layers.

    Args:
        array: a Dask array.
        first_axis: the first of the axes.
        spans: for each of the axes its parts.
    """
    axes = range(first_axis, array.ndim)
    if all(
        tuple(pairwise(borders(array.chunks[axis]))) == tuple(parts)
        for axis, parts in zip(axes, spans, strict=True)
    ):
        return array
    return _joined(array, first_axis, spans, (slice(None),) * first_axis)


def _joined(
    array: Any, first_axis: int, spans: Sequence[Sequence[Span]], index: tuple[slice, ...]
) -> Any:
    """The windows that are ``index`` along the first axes."""
    axis = len(index)
    if axis == array.ndim:
        return array[index].rechunk(dict.fromkeys(range(first_axis, axis), -1))
    parts = spans[axis - first_axis]
    return da.concatenate(
        [_joined(array, first_axis, spans, (*index, slice(*part))) for part in parts], axis
    )


def add_windows(array: Any, axis: int, spans: Sequence[Span], chunks: Sequence[int]) -> Any:
    """The transpose of :func:`windows`: an array of ``chunks`` along an axis.

    An element is the sum of its values in all windows, in the order of the windows.
    """
    starts = borders(array.chunks[axis])
    cuts = sorted({0, sum(chunks), *(border for span in spans for border in span)})
    segments = []
    for start, stop in pairwise(cuts):
        segment = None
        for (first, last), at in zip(spans, starts, strict=False):
            if first <= start and stop <= last:
                part = _part(array, axis, at + start - first, at + stop - first)
                segment = part if segment is None else segment + part
        segments.append(_zeros(array, axis, stop - start) if segment is None else segment)
    if not segments:
        return array
    return da.concatenate(segments, axis).rechunk({axis: tuple(chunks)})


def _part(array: Any, axis: int, start: int, stop: int) -> Any:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _zeros(array: Any, axis: int, size: int) -> Any:
    """Zeros for the elements that no window contains."""
    shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
    chunks = (*array.chunks[:axis], (size,), *array.chunks[axis + 1 :])
    return da.zeros_like(array, shape=shape, chunks=chunks)
