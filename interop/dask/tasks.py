"""The functions that run in a worker: they compute one tile of a call, with the blocks' adapter.

They are functions of a module, so that they can be sent to other processes by name.

Tasks of gradients convert 16-bit operands to float32, which is exact. So a gradient that is a sum
over several tiles is rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cudeform.arrays import Operands, Tangents
from cudeform.family import OPERATORS
from cudeform.interop.adapter import adapter_of
from cudeform.options import Options, options

from .tiles import Tiles

TANGENT = "tangent of "  # prefix of names, as in ``Tangents.present``


@dataclass(frozen=True)
class Task:
    """The description of a call that all its tasks share.

    Attributes:
        operator: name of the operator.
        operation: forward, backward, jvp or double_backward.
        names: names of the blocks that a task gets, in order.
        needs: names of the results, if there are several.
        options: the options in force at the call, with the number of threads of a task.
    """

    operator: str
    operation: str
    tiles: Tiles
    names: tuple[str, ...]
    needs: tuple[str, ...]
    options: Options


def run(*blocks: Any, task: Task, block_id: Sequence[int]) -> Any:
    """Compute a tile. Return one result as an array, several as an array with a named tuple."""
    arrays = dict(zip(task.names, blocks, strict=True))
    index = block_id[2:]
    task.tiles.check(arrays["offset"], index)
    if "backward" in task.operation:
        arrays = {name: _widened(array) for name, array in arrays.items()}
    for name in ("bias", TANGENT + "bias"):
        if name in arrays:
            arrays[name] = arrays[name].reshape(-1)
    operands = Operands(**{name: arrays.get(name) for name in Operands._fields})
    geometry = task.tiles.tile(index, len(operands.input))
    operator = OPERATORS[task.operator]
    adapter: Any = adapter_of({"input": operands.input})
    with options(**vars(task.options)):
        if task.operation == "forward":
            return adapter.run_forward(operator, operands, geometry)
        if task.operation == "jvp":
            return adapter.run_jvp(operator, operands, geometry, _tangents(arrays))
        directions = [arrays["grad_output"]]
        if task.operation == "double_backward":
            directions.append(_tangents(arrays))
        run_operation = getattr(adapter, f"run_{task.operation}")
        results = run_operation(operator, operands, geometry, *directions, frozenset(task.needs))
    return _boxed(results, len(block_id))


def local(box: Any, name: str, dtype: Any) -> Any:
    """Select a result to which only this tile contributes."""
    return getattr(box.item(), name).astype(dtype, copy=False)


def partial_sum(box: Any, name: str) -> Any:
    """The partial sum of a tile for a result without chunks; the leading axes are the tiles'."""
    part = getattr(box.item(), name)
    return part.reshape((1,) * box.ndim + part.shape)


def _tangents(arrays: dict[str, Any]) -> Tangents:
    return Tangents(*(arrays.get(TANGENT + name) for name in Tangents._fields))


def _widened(array: Any) -> Any:
    return array.astype("float32") if array.dtype.itemsize == 2 else array


def _boxed(results: Any, ndim: int) -> Any:
    box = np.empty((1,) * ndim, object)
    box[(0,) * ndim] = results
    return box
