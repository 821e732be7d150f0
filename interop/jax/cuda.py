"""A task on a GPU: XLA's device, stream and memory, described for the engine.

Nothing is allocated outside XLA: the engine's workspace is one more result of the call, and a
rehearsal while JAX traces tells its size. Contents of arrays are never read on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax

from cudeform import engine
from cudeform.arrays import DeviceArray

from .call_spec import Shape, Task, contiguous, performer, shapes_of

ALIGNMENT = 256

# Of memory that is free, the engine takes a share unless the caller sets a limit. XLA holds nearly
# all memory itself, and the rehearsal and the call must find the same.
FREE_BYTES = 2**30

# Whether XLA may record a call into a CUDA graph: CuPy refuses cuBLAS there.
CAPTURABLE = False


def scratch(task: Task) -> list[Any]:
    """The results that are workspace."""
    return [jax.ShapeDtypeStruct((workspace_bytes(task),), "uint8")]


@cache
def workspace_bytes(task: Task) -> int:
    """Bytes of workspace that a task takes, and some to align it."""
    arena = Arena(0)
    device = Rehearsal(engine.gpu_device(0, 0), arena)
    arrays, results = ([_array(task, ALIGNMENT, s) for s in shapes] for shapes in shapes_of(task))
    performer(task)(arrays, results, device)
    return arena.at + ALIGNMENT


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
    inputs, outputs = (
        [_array(task, pointer, shape) for pointer, shape in zip(pointers, shapes, strict=True)]
        for pointers, shapes in zip((arrays, results[:-1]), shapes_of(task), strict=True)
    )
    arena = Arena(results[-1], results[-1] + workspace_bytes(task))
    performer(task)(inputs, outputs, Planned(engine.gpu_device(index, stream), arena))


def _array(task: Task, pointer: int, shape: Shape) -> DeviceArray:
    return DeviceArray(pointer, shape, contiguous(shape), task.dtype)


class Piece(NamedTuple):
    """Memory of an arena; it is not given back."""

    pointer: int


class Arena:
    """Memory that is handed out piece by piece, once."""

    def __init__(self, start: int, end: int | None = None) -> None:
        """Take the memory between two addresses, or all that there is."""
        self.at, self.end = start, end

    def take(self, nbytes: int) -> Piece:
        """The next piece."""
        piece = Piece(-(-self.at // ALIGNMENT) * ALIGNMENT)
        self.at = piece.pointer + nbytes
        if self.end is not None and self.at > self.end:
            raise RuntimeError("this GPU needs more workspace than the one it was planned for")
        return piece


class Planned:
    """A device whose memory is an arena."""

    def __init__(self, device: Any, arena: Arena) -> None:
        """Run on a device with the memory of an arena."""
        self.kind = "XLA", device.kind
        self.compute_capability: int = device.compute_capability
        self.multiprocessors: int = device.multiprocessors
        self.launch, self.gemm, self.fill_zero = device.launch, device.gemm, device.fill_zero
        self.replay = device.replay
        self.allocate = arena.take

    def free_bytes(self) -> int:
        """What a plan may count on."""
        return FREE_BYTES


class Rehearsal(Planned):
    """A device that does nothing but allocate."""

    def __init__(self, device: Any, arena: Arena) -> None:
        """Plan for a device."""
        super().__init__(device, arena)
        self.launch = self.gemm = self.fill_zero = self.replay = self._nothing

    def _nothing(self, *what: Any, **how: Any) -> None:
        pass
