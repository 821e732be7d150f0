"""The adapter for Dask arrays: lazy calls, with one task per chunk of the offset.

A call checks shapes and dtypes and builds a graph; it computes nothing. All operators are cut along
the batch, and convolutions that are not transposed in space too. The chunks of the offset determine
the tasks, and other arguments are rechunked to match. The role of an array in the table of
operators determines its blocks and how results are assembled:

* images: a task reads its images, of a call that is cut in space a window of them;
* arrays over positions: a task reads its chunk;
* filters and the bias: every task reads all of them, and their gradients are sums over all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isnan
from typing import Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.base import tokenize

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import TANGENT
from cudeform.geometry import Geometry
from cudeform.interop.adapter import adapter_of
from cudeform.interop.array_adapter import CheckedAdapter
from cudeform.interop.numpy import ADAPTER as NUMPY
from cudeform.options import current
from cudeform.spec import IMAGES, Operator

from . import tasks
from .tiles import Tiles
from .windows import add_windows, borders, windows

Chunks = tuple[tuple[int, ...], ...]

# Number of partial sums that one task of a sum over tiles adds.
SPLIT_EVERY = 4


class DaskAdapter(CheckedAdapter):
    """Builds lazy calls on Dask arrays whose blocks are NumPy or CuPy arrays."""

    def dtype_name(self, array: Any) -> str:
        """Name of the dtype."""
        return NUMPY.dtype_name(array)

    def device_of(self, array: Any) -> str:
        """ "gpu" for CuPy blocks, else "cpu"."""
        return "cpu" if isinstance(_meta(array), np.ndarray) else "gpu"

    def run_forward(self, operator: Operator, operands: Operands, geometry: Any) -> Any:
        """The output, lazily."""
        return _Call(operator, operands, geometry).output("forward", {})

    def run_jvp(
        self, operator: Operator, operands: Operands, geometry: Any, tangents: Tangents
    ) -> Any:
        """The tangent of the output, lazily."""
        return _Call(operator, operands, geometry).output("jvp", tangents.present())

    def run_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: Any,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``, lazily."""
        call = _Call(operator, operands, geometry)
        return Gradients(**call.results("backward", {"grad_output": grad_output}, needs))

    def run_double_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: Any,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of the gradients named in ``needs``, lazily."""
        others = {"grad_output": grad_output} | cotangents.present()
        return DoubleGradients(
            **_Call(operator, operands, geometry).results("double_backward", others, needs)
        )

    def _checked(
        self, operator: Operator, operands: Operands, settings: Any, others: Mapping[str, Any]
    ) -> Any:
        arrays = operands.present() | dict(others)
        for name, array in operator.named(arrays).items():
            if any(isnan(size) for size in array.shape):
                raise ValueError(
                    f"{name} must have chunks of known sizes, got shape {array.shape}; "
                    f"call {name}.compute_chunk_sizes() first"
                )
            adapter_of({f"a block of {name}": _meta(array)})
        geometry = super()._checked(operator, operands, settings, others)
        if not _is_cut_in_space(operator):
            for name, array in arrays.items():
                _check_whole_images(operator, name, array)
        return geometry


ADAPTER = DaskAdapter()


class _Call:
    """A call while its graph is built.

    Dask aligns the last axes of blocks, but the arrays of a call may differ in their number of
    axes. So all blocks, and what a task returns, get axes of length 1 at the end, up to ``ndim``.
    """

    def __init__(self, operator: Operator, operands: Operands, geometry: Any) -> None:
        self.operator = operator
        self.geometry = geometry
        self.arrays = operands.present()
        self.ndim = max(len(geometry.output_shape), *(a.ndim for a in self.arrays.values()))
        options = current()
        self.batch, self.space = _cut(operator, operands, geometry)
        self.tiles = Tiles(geometry, (), (), None)
        if _is_cut_in_space(operator):
            self.tiles = Tiles.of(geometry, self.space, options.max_displacement)
        # The scheduler runs one task per core. The tiles check max_displacement themselves.
        threads = options.num_threads or 1
        self.options = replace(options, num_threads=threads, max_displacement=None)
        self.meta = _meta(operands.input)

    def output(self, operation: str, others: Mapping[str, Any]) -> Any:
        """The output or its tangent, assembled from one array per task."""
        shape = self.geometry.output_shape
        return self._map(operation, others, (), self._chunks(shape), self.meta)

    def results(
        self, operation: str, others: Mapping[str, Any], needs: frozenset[str]
    ) -> dict[str, Any]:
        """Several results by name, each with the shape and dtype of its argument."""
        arrays = self.arrays | dict(others)
        if not needs:
            return {}
        chunks = tuple((1,) * len(sizes) for sizes in self._chunks((1,) * self.ndim))
        boxes = self._map(operation, others, tuple(sorted(needs)), chunks, np.empty(0, object))
        return {name: self._result(boxes, name, arrays[name]) for name in needs}

    def _map(
        self,
        operation: str,
        others: Mapping[str, Any],
        needs: tuple[str, ...],
        chunks: Chunks,
        meta: Any,
    ) -> Any:
        arrays = self.arrays | dict(others)
        blocks = [
            self._blocks(name, array)[(..., *(None,) * (self.ndim - array.ndim))]
            for name, array in arrays.items()
        ]
        task = tasks.Task(
            operator=self.operator.name,
            operation=operation,
            tiles=self.tiles,
            names=tuple(arrays),
            ndims=tuple(array.ndim for array in arrays.values()),
            needs=needs,
            options=self.options,
        )
        name = f"{self.operator.name}-{operation}-{tokenize(task, *blocks)}"
        return self._map_blocks(tasks.run, *blocks, chunks=chunks, meta=meta, task=task, name=name)

    def _map_blocks(
        self, function: Any, *blocks: Any, chunks: Chunks, meta: Any, **keywords: Any
    ) -> Any:
        """``map_blocks`` for a result that may have fewer axes than the blocks."""
        missing = self.ndim - len(chunks)
        result = da.map_blocks(
            function,
            *blocks,
            chunks=(*chunks, *((1,),) * missing),
            meta=meta_from_array(meta, ndim=self.ndim),
            **keywords,
        )
        return result[(..., *(0,) * missing)] if missing else result

    def _chunks(self, shape: Sequence[int]) -> Chunks:
        """Chunks of an array of this shape of which each task reads or writes one."""
        whole = shape[1 : len(shape) - len(self.space)]
        return (self.batch, *((size,) for size in whole), *self.space)

    def _blocks(self, name: str, array: Any) -> Any:
        """An array, rechunked so that each task gets its block by index."""
        if self._is_shared(name):
            return _as_dask(array, -1).rechunk(-1)
        if not self._has_windows(name):
            chunks = self._chunks(array.shape)
            return _as_dask(array, chunks).rechunk(chunks)
        sizes = zip(self.tiles.cuts, array.shape[2:], strict=True)
        like_offset = [_scaled(cuts, size) for cuts, size in sizes]
        image = _as_dask(array, (self.batch, array.shape[1:2], *like_offset))
        return windows(image.rechunk({0: self.batch, 1: -1}), 2, self.tiles.spans)

    def _result(self, boxes: Any, name: str, argument: Any) -> Any:
        if self._is_shared(name):
            return self._summed(boxes, name, argument)
        is_image = self.operator.role(name) == IMAGES
        chunks, dtype = self._chunks(argument.shape), argument.dtype
        if self._has_windows(name):
            widths = [tuple(b - a for a, b in spans) for spans in self.tiles.spans]
            chunks, dtype = (*chunks[:2], *widths), _dtype_of_sums(argument)
        meta = meta_from_array(self.meta, dtype=dtype)
        result = self._map_blocks(tasks.local, boxes, name, dtype, chunks=chunks, meta=meta)
        own = argument.chunks if is_image and isinstance(argument, da.Array) else None
        if self._has_windows(name):
            for axis, spans in reversed(list(enumerate(self.tiles.spans, start=2))):
                cuts, size = self.tiles.cuts[axis - 2], argument.shape[axis]
                result = add_windows(result, axis, spans, own[axis] if own else _scaled(cuts, size))
        return (result.rechunk(own) if own else result).astype(argument.dtype)

    def _summed(self, boxes: Any, name: str, argument: Any) -> Any:
        """A sum over all tiles, along a tree whose shape depends on their number alone."""
        parts = boxes.map_blocks(
            tasks.partial_sum,
            name,
            new_axis=[boxes.ndim + axis for axis in range(argument.ndim)],
            chunks=(*boxes.chunks, *((size,) for size in argument.shape)),
            meta=meta_from_array(
                self.meta, ndim=boxes.ndim + argument.ndim, dtype=_dtype_of_sums(argument)
            ),
        )
        axes = tuple(range(boxes.ndim))
        return parts.sum(axis=axes, split_every=SPLIT_EVERY).astype(argument.dtype)

    def _is_shared(self, name: str) -> bool:
        return name.removeprefix(TANGENT) in self.operator.parameters

    def _has_windows(self, name: str) -> bool:
        """Whether tasks read windows of an array, which overlap."""
        return bool(self.space) and self.operator.role(name) == IMAGES


def _is_cut_in_space(operator: Operator) -> bool:
    """Whether the output consists of tiles that depend on windows of the images alone."""
    return operator.geometry_type is Geometry


def _cut(operator: Operator, operands: Operands, geometry: Any) -> tuple[tuple[int, ...], Chunks]:
    """Chunks of a call along the batch, and along the axes of space if it is cut there.

    They are the offset's; if it is no Dask array, they follow from the input's chunks.
    """
    in_space = _is_cut_in_space(operator)
    offset, input = operands.offset, operands.input
    if isinstance(offset, da.Array):
        return offset.chunks[0], offset.chunks[2:] if in_space else ()
    if not isinstance(input, da.Array):
        one = tuple((size,) for size in offset.shape)
        return one[0], one[2:] if in_space else ()
    batch, _, *space = input.chunks
    if not in_space:
        return batch, ()
    pairs = zip(space, geometry.out, strict=True)
    return batch, tuple(_scaled(borders(each), size) for each, size in pairs)


def _check_whole_images(operator: Operator, name: str, array: Any) -> None:
    """Check that an array has several chunks along the batch alone.

    Merging others silently would load images that were cut because they do not fit into memory.
    """
    if not isinstance(array, da.Array) or name.removeprefix(TANGENT) in operator.parameters:
        return
    several = [axis for axis, sizes in enumerate(array.chunks) if axis and len(sizes) > 1]
    if several:
        merged = ", ".join(f"{axis}: -1" for axis in several)
        raise ValueError(
            f"{operator.public(name)} must have one chunk along each axis but the batch, because "
            f"{operator.name} computes whole images, got chunks {array.chunks}; "
            f"call .rechunk({{{merged}}})"
        )


def _dtype_of_sums(argument: Any) -> Any:
    """The dtype of sums over tiles, which are rounded to the argument's at the end."""
    return np.dtype(np.float32) if argument.dtype.itemsize == 2 else argument.dtype


def _scaled(cuts: Sequence[int], size: int) -> tuple[int, ...]:
    """Chunks of an axis of length ``size``, in the same proportions as the given chunks."""
    at = sorted({0, size, *(cut * size // max(1, cuts[-1]) for cut in cuts)})
    return tuple(b - a for a, b in pairwise(at))


def _as_dask(array: Any, chunks: Any) -> Any:
    if isinstance(array, da.Array):
        return array
    return da.from_array(array, chunks=chunks, asarray=False)


def _meta(array: Any) -> Any:
    """An empty array of the type of the array's blocks."""
    return meta_from_array(array)
