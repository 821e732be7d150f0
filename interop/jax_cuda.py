"""A task on a GPU: XLA's device, stream and memory, described for the engine.

Nothing is allocated outside XLA: the engine's workspace is one more result of the call. Contents of
arrays are never read on the host, so a call can be captured into a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from cudeform import engine
from cudeform.gpu.protocol import DeviceArray

from .jax_task import Task, contiguous, performer, shapes_of

ALIGNMENT = 256


def scratch(task: Task) -> list[Any]:
    """The results that are workspace."""
    from cudeform import gpu

    nbytes = gpu.workspace_bytes(task.operation, task.geometry, task.options, task.dtype)  # type: ignore[attr-defined]
    return [jax.ShapeDtypeStruct((nbytes,), "uint8")]


def callback(task: Task) -> Callable[..., None]:
    """What ``buffer_callback`` calls."""

    def run(context: Any, results: Any, *arrays: Any) -> None:
        index = arrays[0].__dlpack_device__()[1]
        perform_at(task, [*map(_pointer, arrays)], [*map(_pointer, results)], context.stream, index)

    return run


def _pointer(buffer: Any) -> int:
    pointer: int = buffer.__cuda_array_interface__["data"][0]
    return pointer


def perform_at(
    task: Task, arrays: Sequence[int], results: Sequence[int], stream: int, index: int
) -> None:
    """Queue a task on arrays at these addresses; the last result is workspace."""
    shapes = shapes_of(task)
    inputs, outputs = (
        [
            DeviceArray(at, shape, contiguous(shape), task.dtype)
            for at, shape in zip(*pair, strict=True)
        ]
        for pair in ((arrays, shapes[0]), (results[:-1], shapes[1]))
    )
    device = engine.gpu_device(index, stream, Arena(results[-1]).take)
    performer(task)(inputs, outputs, device)


@dataclass(frozen=True)
class Piece:
    """Memory of an arena; it is not given back."""

    pointer: int


@dataclass
class Arena:
    """Memory that is handed out piece by piece, once."""

    at: int

    def take(self, nbytes: int) -> Piece:
        """The next piece."""
        piece = Piece(-(-self.at // ALIGNMENT) * ALIGNMENT)
        self.at = piece.pointer + nbytes
        return piece
