"""The adapter for Dask arrays: lazy calls, with one task per chunk of the offset.

A call checks shapes and dtypes and builds a graph; it computes nothing. The chunks of the offset,
the largest argument, determine those of the output, and other arguments are rechunked to match. An
array of a call has one of three roles, which determine its blocks and how results are assembled:

* an image: a task reads a window of it;
* an array over output positions: a task reads its chunk;
* a filter: every task reads all of it.
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
from cudeform.family import Operator
from cudeform.geometry import Geometry
from cudeform.interop.adapter import adapter_of
from cudeform.interop.array_adapter import CheckedAdapter
from cudeform.interop.numpy import ADAPTER as NUMPY
from cudeform.options import current

from . import tasks
from .tiles import Tiles
from .windows import add_windows, borders, windows

IMAGES, FILTERS = ("input",), ("weight", "bias")  # all other arrays are over output positions

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
        """The deformable convolution, lazily."""
        return _Call(operator, operands, geometry).over_positions("forward", {})

    def run_jvp(
        self, operator: Operator, operands: Operands, geometry: Any, tangents: Tangents
    ) -> Any:
        """The tangent of the output, lazily."""
        return _Call(operator, operands, geometry).over_positions("jvp", tangents.present())

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
        if operator.geometry_type is not Geometry:
            raise NotImplementedError(
                f"{operator.name} does not take arrays of dask, only convolutions do; call it on "
                "blocks of whole images, by dask.array.map_blocks over the batch"
            )
        for name, array in (operands.present() | dict(others)).items():
            if any(isnan(size) for size in array.shape):
                raise ValueError(
                    f"{name} must have chunks of known sizes, got shape {array.shape}; "
                    f"call {name}.compute_chunk_sizes() first"
                )
            adapter_of({f"a block of {name}": _meta(array)})
        return super()._checked(operator, operands, settings, others)


ADAPTER = DaskAdapter()


class _Call:
    """A call while its graph is built."""

    def __init__(self, operator: Operator, operands: Operands, geometry: Geometry) -> None:
        self.operator = operator
        self.geometry = geometry
        self.arrays = operands.present()
        self.offset_chunks = _offset_chunks(operands, geometry)
        options = current()
        self.tiles = Tiles.of(geometry, self.offset_chunks[2:], options.max_displacement)
        # The scheduler runs one task per core. The tiles check max_displacement themselves.
        threads = options.num_threads or 1
        self.options = replace(options, num_threads=threads, max_displacement=None)
        self.meta = _meta(operands.input)

    def over_positions(self, operation: str, others: Mapping[str, Any]) -> Any:
        """A result over output positions, assembled from one array per task."""
        batch, _, *space = self.offset_chunks
        chunks = (batch, (self.geometry.out_channels,), *space)
        return self._map(operation, others, (), chunks, self.meta)

    def results(
        self, operation: str, others: Mapping[str, Any], needs: frozenset[str]
    ) -> dict[str, Any]:
        """Several results by name, each with the shape, dtype and chunks of its argument."""
        arrays = self.arrays | dict(others)
        if not needs:
            return {}
        chunks = tuple((1,) * len(sizes) for sizes in (self.offset_chunks[0], (1,)))
        chunks += tuple((1,) * len(sizes) for sizes in self.offset_chunks[2:])
        meta = np.empty((0,) * len(chunks), object)
        boxes = self._map(operation, others, tuple(sorted(needs)), chunks, meta)
        return {name: self._result(boxes, name, arrays[name]) for name in needs}

    def _map(
        self,
        operation: str,
        others: Mapping[str, Any],
        needs: tuple[str, ...],
        chunks: Any,
        meta: Any,
    ) -> Any:
        arrays = self.arrays | dict(others)
        blocks = [self._blocks(name, array) for name, array in arrays.items()]
        task = tasks.Task(
            self.operator.name, operation, self.tiles, tuple(arrays), needs, self.options
        )
        return da.map_blocks(
            tasks.run,
            *blocks,
            task=task,
            chunks=chunks,
            meta=meta,
            name=f"{self.operator.name}-{operation}-{tokenize(task, *blocks)}",
        )

    def _blocks(self, name: str, array: Any) -> Any:
        """An array, rechunked so that each task gets its block by index."""
        role = name.removeprefix(tasks.TANGENT)
        batch, _, *space = self.offset_chunks
        if role in FILTERS:
            whole = _as_dask(array, -1).rechunk(-1)
            return whole.reshape(whole.shape + (1,) * (2 + self.geometry.axes - whole.ndim))
        if role not in IMAGES:
            chunks = (batch, (array.shape[1],), *space)
            return _as_dask(array, chunks).rechunk(chunks)
        sizes = zip(self.tiles.cuts, array.shape[2:], strict=True)
        like_offset = [_scaled(cuts, size) for cuts, size in sizes]
        image = _as_dask(array, (batch, array.shape[1:2], *like_offset))
        return windows(image.rechunk({0: batch, 1: -1}), 2, self.tiles.spans)

    def _result(self, boxes: Any, name: str, argument: Any) -> Any:
        if name in FILTERS:
            return self._summed(boxes, name, argument)
        batch, _, *space = self.offset_chunks
        if name not in IMAGES:
            chunks = (batch, argument.shape[1:2], *space)
            dtype = argument.dtype
        else:
            widths = [tuple(b - a for a, b in spans) for spans in self.tiles.spans]
            chunks = (batch, argument.shape[1:2], *widths)
            dtype = np.float32 if argument.dtype.itemsize == 2 else argument.dtype
        meta = meta_from_array(self.meta, ndim=len(chunks), dtype=dtype)
        result = boxes.map_blocks(tasks.local, name, dtype, chunks=chunks, meta=meta)
        if name not in IMAGES:
            return result
        own = argument.chunks if isinstance(argument, da.Array) else None
        for axis, spans in reversed(list(enumerate(self.tiles.spans, start=2))):
            sizes = own[axis] if own else _scaled(self.tiles.cuts[axis - 2], argument.shape[axis])
            result = add_windows(result, axis, spans, sizes)
        if own:
            result = result.rechunk({0: own[0], 1: own[1]})
        return result.astype(argument.dtype)

    def _summed(self, boxes: Any, name: str, argument: Any) -> Any:
        """A sum over all tiles, along a tree whose shape depends on their number alone."""
        dtype = np.float32 if argument.dtype.itemsize == 2 else argument.dtype
        axes = tuple(range(boxes.ndim))
        parts = boxes.map_blocks(
            tasks.partial_sum,
            name,
            new_axis=[boxes.ndim + axis for axis in range(argument.ndim)],
            chunks=(*boxes.chunks, *((size,) for size in argument.shape)),
            meta=meta_from_array(self.meta, ndim=boxes.ndim + argument.ndim, dtype=dtype),
        )
        return parts.sum(axis=axes, split_every=SPLIT_EVERY).astype(argument.dtype)


def _offset_chunks(operands: Operands, g: Geometry) -> tuple[tuple[int, ...], ...]:
    """Chunks of the offset; if it is no Dask array, they follow from the input's chunks."""
    if isinstance(operands.offset, da.Array):
        chunks: tuple[tuple[int, ...], ...] = operands.offset.chunks
        return chunks
    if isinstance(operands.input, da.Array):
        batch, _, *space = operands.input.chunks
        scaled = [_scaled(borders(each), out) for each, out in zip(space, g.out, strict=True)]
        return (batch, operands.offset.shape[1:2], *scaled)
    return tuple((size,) for size in operands.offset.shape)


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
