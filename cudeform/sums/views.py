"""Views in the canonical form of ``sums_geometry`` of the arrays that users pass.

They are views of the same memory, for NumPy arrays and for ``DeviceArray``. A NumPy array of
locations is copied if its levels and points cannot become one axis.
"""

from __future__ import annotations

from math import prod
from typing import Any

from cudeform.arrays import DeviceArray, DoubleGradients, Gradients, Operands, Tangents
from cudeform.sums_geometry import SumGeometry

Shape = tuple[int, ...]

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def image_view(array: Any, g: SumGeometry) -> Any:
    """(N, H, W, G, D) of images, or (N, S, 1, G, D) of levels."""
    level = g.levels[0]
    size = (g.pixels, 1) if g.grid is None else (level.height, level.width)
    return _reshaped(array, (g.batch, *size, g.groups, g.channels))


def output_view(array: Any, g: SumGeometry) -> Any:
    """(N, OH, OW, G, D)."""
    return _reshaped(array, (g.batch, *g.out, g.groups, g.channels))


def offset_view(array: Any, g: SumGeometry) -> Any:
    """(N, OH, OW, G, P, 2)."""
    return _reshaped(array, (g.batch, *g.out, g.groups, g.taps, 2))


def mask_view(array: Any, g: SumGeometry) -> Any:
    """(N, OH, OW, G, P)."""
    return _reshaped(array, (g.batch, *g.out, g.groups, g.taps))


def packed_views(array: Any, g: SumGeometry) -> tuple[Any, Any]:
    """Offset and mask in the rows of DCNv4: for each group all pairs, then all masks."""
    rows = _cut(array, 0, 3 * g.groups * g.taps)
    groups = _reshaped(rows, (g.batch, *g.out, g.groups, 3 * g.taps))
    return offset_view(_cut(groups, 0, 2 * g.taps), g), _cut(groups, 2 * g.taps, 3 * g.taps)


def canonical(arrays: Any, g: SumGeometry, packed: bool) -> Any:
    """A named tuple of arrays of an operator, as views; None stays None.

    Args:
        arrays: ``Operands``, ``Gradients``, ``Tangents`` or ``DoubleGradients``.
        g: sizes of the call.
        packed: whether the array ``offset`` holds the masks too.
    """
    views: dict[str, Any] = {}
    if arrays.input is not None:
        views["input"] = image_view(arrays.input, g)
    if arrays.offset is not None and packed:
        views["offset"], views["mask"] = packed_views(arrays.offset, g)
    elif arrays.offset is not None:
        views["offset"] = offset_view(arrays.offset, g)
    if arrays.mask is not None:
        views["mask"] = mask_view(arrays.mask, g)
    if isinstance(arrays, DoubleGradients) and arrays.grad_output is not None:
        views["grad_output"] = output_view(arrays.grad_output, g)
    if isinstance(arrays, Operands):
        return Operands(views["input"], views["offset"], mask=views["mask"])
    kind: type[Gradients | Tangents | DoubleGradients] = type(arrays)
    return kind(**views)


def _reshaped(array: Any, shape: Shape) -> Any:
    if not isinstance(array, DeviceArray):
        return array.reshape(shape)
    strides = _strides_of(array.shape, array.strides, shape)
    if strides is None:
        raise ValueError(
            f"the axes of an array of shape {array.shape} on a GPU, seen as {shape}, must lie one "
            f"behind the other, got strides {array.strides}; pass a contiguous copy of it"
        )
    return array._replace(shape=shape, strides=strides)


def _strides_of(shape: Shape, strides: Shape, wanted: Shape) -> Shape | None:
    """Strides of the same memory in another shape; None if there are none.

    Both shapes are cut into the smallest runs of axes that have the same number of elements. In a
    run, the stride of an axis must be the size of the next axis times its stride.
    """
    if not prod(wanted):
        return (0,) * len(wanted)
    old = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    found: list[int] = []
    at = 0
    for size in wanted:
        if size == 1:
            found.append(0)
            continue
        elements, stride = old[at]
        while elements % size:  # the next axis belongs to the same run
            at += 1
            if stride != old[at][0] * old[at][1]:
                return None
            elements, stride = elements * old[at][0], old[at][1]
        rest = elements // size
        found.append(stride * rest)
        old[at] = (rest, stride)
        at += rest == 1
    return tuple(found)


def _cut(array: Any, start: int, stop: int) -> Any:
    """Elements ``start`` to ``stop`` of the last axis."""
    if not isinstance(array, DeviceArray):
        return array[..., start:stop]
    pointer = array.pointer + start * array.strides[-1] * ITEMSIZE[array.dtype]
    return array._replace(pointer=pointer, shape=(*array.shape[:-1], stop - start))
