"""A GPU through CuPy, which executes launch plans.

Kernel launches get device addresses and an explicit stream. CuPy's current device and stream are
set only around calls that have no argument for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import local
from typing import Any, NamedTuple

from cudeform.gpu.cuda.cublas import FullPrecisionReductions
from cudeform.gpu.cuda.prepared_launch import PreparedSteps
from cudeform.gpu.device_api.commands import Step
from cudeform.gpu.device_api.protocol import Memory

MULTIPROCESSOR_COUNT = 16  # cudaDevAttrMultiProcessorCount


class GpuUnavailableError(RuntimeError):
    """No GPU can be used; the text says what was found and what to do."""


_found: Any = None


def usable_cupy() -> Any:
    """Return CuPy if it and a GPU are available.

    Raises:
        GpuUnavailableError: CuPy or a GPU is missing; the text has the remedy.
    """
    global _found
    if _found is not None and sys.modules.get("cupy") is _found:
        return _found  # this runs in every call, so it must be fast
    try:
        import cupy
    except ImportError as error:
        raise GpuUnavailableError(
            f"CuPy cannot be imported ({error}); pip install 'cudeform[cuda13]' or "
            "'cudeform[cuda12]', the one that fits the driver"
        ) from error
    if not cupy.is_available():
        raise GpuUnavailableError(
            f"CuPy {cupy.__version__} finds no GPU ({_why_no_gpu(cupy)}); nvidia-smi shows whether "
            "a driver runs and for which CUDA version"
        )
    _found = cupy
    return cupy


def _why_no_gpu(cupy: Any) -> str:
    try:
        return f"{cupy.cuda.runtime.getDeviceCount()} devices"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error)


def device_count() -> int:
    """Number of GPUs that can be used."""
    try:
        return int(usable_cupy().cuda.runtime.getDeviceCount())
    except GpuUnavailableError:
        return 0


class PoolMemory:
    """Memory of CuPy's current pool, released together with the object."""

    def __init__(self, allocation: Any) -> None:
        """Wrap an allocation of CuPy."""
        self._allocation = allocation
        self.pointer: int = allocation.ptr


def pool_allocate(nbytes: int) -> Memory:
    """Memory of CuPy's pool for the current device and stream."""
    return PoolMemory(usable_cupy().cuda.alloc(nbytes))


class _Stream(NamedTuple):
    """The address of a stream, in the form of CuPy's stream protocol."""

    ptr: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.ptr


class CupyDevice:
    """One GPU and one stream; an ``Executor``."""

    def __init__(
        self,
        index: int,
        stream: int,
        allocate: Callable[[int], Memory] = pool_allocate,
        *,
        out_of_memory: tuple[type[Exception], ...] = (),
        free_bytes: int | None = None,
    ) -> None:
        """Choose where to run.

        Args:
            index: number of the device.
            stream: address of the stream, 0 for the default one.
            allocate: allocates memory of that device for use on that stream.
            out_of_memory: exception other than MemoryError that ``allocate`` raises if memory is
                exhausted.
            free_bytes: the free memory to plan for; None asks the driver.
        """
        self._cupy = usable_cupy()
        self._index, self._stream, self._free_bytes = index, _Stream(stream), free_bytes
        self.kind = index, free_bytes  # a plan depends on both
        self._current = self._cupy.cuda.Device(index)
        self.compute_capability, self.multiprocessors = _properties(index)
        self.allocate = allocate
        self.out_of_memory: tuple[type[Exception], ...] = (MemoryError, *out_of_memory)

    def free_bytes(self) -> int:
        """Free memory that a call may plan for."""
        if self._free_bytes is not None:
            return self._free_bytes
        with self._current:
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def replay(self, steps: Sequence[Step], bases: Sequence[int], prepared: list[Any]) -> None:
        """Queue the steps of a plan; see the protocol.

        A prepared list of steps holds the arguments of one call at a time. Calls of several threads
        may overlap, so each call removes a list from ``prepared``, or makes a new one.
        """
        with self._current:
            _ensure_context(self._cupy, self._index)
            try:
                mine = prepared.pop()
            except IndexError:
                mine = PreparedSteps(self._cupy, self._index, steps)
            if mine.uses_cublas:
                with self._stream_of_cublas(), FullPrecisionReductions(self._cupy):
                    mine.queue(self._stream.ptr, bases)
            else:
                mine.queue(self._stream.ptr, bases)
        prepared.append(mine)

    def _stream_of_cublas(self) -> AbstractContextManager[Any]:
        """Make the stream CuPy's current one, because CuPy's cuBLAS calls use that."""
        cuda = self._cupy.cuda
        if cuda.get_current_stream().ptr == self._stream.ptr:
            return _NOTHING
        stream: AbstractContextManager[Any] = cuda.Stream.from_external(self._stream)
        return stream


_NOTHING = nullcontext()


@cache
def _properties(index: int) -> tuple[int, int]:
    """Compute capability and number of multiprocessors."""
    cupy = usable_cupy()
    capability = int(cupy.cuda.Device(index).compute_capability)
    return capability, cupy.cuda.runtime.deviceGetAttribute(MULTIPROCESSOR_COUNT, index)


class _Thread(local):
    """State of this thread.

    Attributes:
        contexts: numbers of the devices for which the thread has a CUDA context.
    """

    def __init__(self) -> None:
        self.contexts: set[int] = set()


_thread = _Thread()


def _ensure_context(cupy: Any, index: int) -> None:
    """Make sure that this thread has a context of the current device.

    The driver needs it to launch kernels. The first runtime call in a thread creates it.
    """
    if index not in _thread.contexts:
        cupy.cuda.runtime.memGetInfo()
        _thread.contexts.add(index)
