"""The functions that run in a worker: they compute one chunk of a call, with the blocks' adapter.

They are functions of a module, so that they can be sent to other processes by name.

If an operator has filters, tasks of its gradients convert 16-bit operands to float32, which is
exact. So a gradient that is a sum over several tasks is rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cudeform.arrays import Operands, Tangents
from cudeform.checks import TANGENT
from cudeform.family import OPERATORS
from cudeform.interop.adapter import adapter_of
from cudeform.options import Options, options

from .tiles import Tiles


@dataclass(frozen=True)
class Task:
    """The description of a call that all its tasks share.

    Attributes:
        operator: name of the operator.
        operation: forward, backward, jvp or double_backward.
        names: names of the blocks that a task gets, in order.
        ndims: numbers of axes of these arrays. Blocks have more, of length 1, at the end.
        needs: names of the results, if there are several.
        options: the options in force at the call, with the number of threads of a task.
    """

    operator: str
    operation: str
    tiles: Tiles
    names: tuple[str, ...]
    ndims: tuple[int, ...]
    needs: tuple[str, ...]
    options: Options


def run(*blocks: Any, task: Task, block_id: Sequence[int]) -> Any:
    """Compute a chunk. Return one result as an array, several as an array with a named tuple."""
    operator = OPERATORS[task.operator]
    named = zip(task.names, task.ndims, blocks, strict=True)
    arrays = {name: block.reshape(block.shape[:ndim]) for name, ndim, block in named}
    index = block_id[len(block_id) - len(task.tiles.cuts) :]
    task.tiles.check(arrays["offset"], index)
    if "backward" in task.operation and operator.parameters:
        arrays = {name: _widened(array) for name, array in arrays.items()}
    operands = Operands(**{name: arrays.get(name) for name in Operands._fields})
    geometry = task.tiles.tile(index, len(operands.input))
    adapter: Any = adapter_of({"input": operands.input})
    with options(**vars(task.options)):
        if task.operation == "forward":
            return _at_ndim(adapter.run_forward(operator, operands, geometry), len(block_id))
        if task.operation == "jvp":
            tangent = adapter.run_jvp(operator, operands, geometry, _tangents(arrays))
            return _at_ndim(tangent, len(block_id))
        directions = [arrays["grad_output"]]
        if task.operation == "double_backward":
            directions.append(_tangents(arrays))
        run_operation = getattr(adapter, f"run_{task.operation}")
        results = run_operation(operator, operands, geometry, *directions, frozenset(task.needs))
    return _boxed(results, len(block_id))


def local(box: Any, name: str, dtype: Any) -> Any:
    """Select a result to which only this task contributes."""
    return _at_ndim(getattr(box.item(), name).astype(dtype, copy=False), box.ndim)


def partial_sum(box: Any, name: str) -> Any:
    """The partial sum of a task for a result without chunks; the leading axes are the tasks'."""
    part = getattr(box.item(), name)
    return part.reshape((1,) * box.ndim + part.shape)


def _at_ndim(array: Any, ndim: int) -> Any:
    """An array with axes of length 1 at the end."""
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))


def _tangents(arrays: dict[str, Any]) -> Tangents:
    return Tangents(*(arrays.get(TANGENT + name) for name in Tangents._fields))


def _widened(array: Any) -> Any:
    return array.astype("float32") if array.dtype.itemsize == 2 else array


def _boxed(results: Any, ndim: int) -> Any:
    box = np.empty((1,) * ndim, object)
    box[(0,) * ndim] = results
    return box
