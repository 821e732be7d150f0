"""A GPU through CuPy: memory, launches, cuBLAS. The only file that imports CuPy.

Kernels get raw addresses and an explicit stream; CuPy's current device and stream, which belong to
the thread, are only set around calls that cannot be told otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import local
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cudeform.gpu.cuda.cublas import WholeSums
from cudeform.gpu.cuda.prepared_launch import Ready
from cudeform.gpu.device_api.commands import Fill, Launch, Product, Step
from cudeform.gpu.device_api.protocol import Gemm, Kernel, Memory

MULTIPROCESSOR_COUNT = 16  # cudaDevAttrMultiProcessorCount


class GpuUnavailableError(RuntimeError):
    """No GPU can be used; the text says what was found and what to do."""


_found: Any = None


def usable_cupy() -> Any:
    """CuPy, if it and a GPU are there.

    Raises:
        GpuUnavailableError: what is missing, and how to get it.
    """
    global _found
    if _found is not None and sys.modules.get("cupy") is _found:
        return _found  # this is asked in every call
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
    """How many GPUs can be used."""
    try:
        return int(usable_cupy().cuda.runtime.getDeviceCount())
    except GpuUnavailableError:
        return 0


class PoolMemory:
    """Memory of CuPy's current pool."""

    def __init__(self, owner: Any) -> None:
        """Hold what CuPy allocated."""
        self._owner = owner
        self.pointer: int = owner.ptr


def pool_allocate(nbytes: int) -> Memory:
    """Memory of CuPy's pool for the current device and stream."""
    return PoolMemory(usable_cupy().cuda.alloc(nbytes))


class _Stream(NamedTuple):
    """A stream by its address, as CuPy's stream protocol takes it."""

    ptr: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.ptr


class CupyDevice:
    """One GPU and one stream."""

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
            allocate: gives memory on that device that may be used on that stream.
            out_of_memory: what ``allocate`` raises, other than MemoryError, without enough memory.
            free_bytes: the free memory that calls are planned for; None asks the driver.
        """
        self._cupy = usable_cupy()
        self._index, self._stream, self._free_bytes = index, _Stream(stream), free_bytes
        self.kind = index, free_bytes  # a plan depends on both
        self._current = self._cupy.cuda.Device(index)
        self.compute_capability, self.multiprocessors = _properties(index)
        self.allocate = allocate
        self.out_of_memory: tuple[type[Exception], ...] = (MemoryError, *out_of_memory)

    def free_bytes(self) -> int:
        """Free memory of the device."""
        if self._free_bytes is not None:
            return self._free_bytes
        with self._current:
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def replay(self, steps: Sequence[Step], bases: Sequence[int], kept: list[Any]) -> None:
        """Queue steps; see the protocol.

        What is kept holds the arguments of one call, so calls that overlap make one each.
        """
        with self._current:
            _have_context(self._cupy, self._index)
            try:
                ready = kept.pop()
            except IndexError:
                ready = Ready(self._cupy, self._index, steps)
            if ready.multiplies:
                with self._stream_of_cublas(), WholeSums(self._cupy):
                    ready.queue(self._stream.ptr, bases)
            else:
                ready.queue(self._stream.ptr, bases)
        kept.append(ready)

    def _stream_of_cublas(self) -> AbstractContextManager[Any]:
        """Make the stream CuPy's current one, for cuBLAS is not told which to take."""
        cuda = self._cupy.cuda
        if cuda.get_current_stream().ptr == self._stream.ptr:
            return _NOTHING
        stream: AbstractContextManager[Any] = cuda.Stream.from_external(self._stream)
        return stream

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        """Set bytes to 0."""
        self.replay([Fill(((1, 0),), nbytes)], [0, pointer], [])

    def launch(
        self,
        kernel: Kernel,
        blocks: int,
        threads: int,
        pointers: Sequence[int],
        params: NDArray[Any],
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel; see the protocol."""
        spots = tuple((i, 0) for i in range(len(pointers)))
        step = Launch(kernel, blocks, threads, spots, params, shared_bytes)
        self.replay([step], pointers, [])

    def gemm(self, gemm: Gemm, pointers: Sequence[int] | None = None) -> None:
        """Multiply matrices by cuBLAS."""
        bases = gemm.pointers if pointers is None else pointers
        self.replay([Product(gemm, ((0, 0), (1, 0), (2, 0)))], bases, [])


_NOTHING = nullcontext()


@cache
def _properties(index: int) -> tuple[int, int]:
    """Compute capability and number of multiprocessors."""
    cupy = usable_cupy()
    capability = int(cupy.cuda.Device(index).compute_capability)
    return capability, cupy.cuda.runtime.deviceGetAttribute(MULTIPROCESSOR_COUNT, index)


class _Thread(local):
    """What this thread has.

    Attributes:
        contexts: numbers of devices.
    """

    def __init__(self) -> None:
        self.contexts: set[int] = set()


_thread = _Thread()


def _have_context(cupy: Any, index: int) -> None:
    """Let this thread have a context of the current device, which only the runtime makes."""
    if index not in _thread.contexts:
        cupy.cuda.runtime.memGetInfo()
        _thread.contexts.add(index)
