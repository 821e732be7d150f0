"""A GPU through CuPy: memory, launches, cuBLAS. The only file that touches CuPy.

Kernels get raw addresses and an explicit stream; CuPy's current device and stream, which belong to
the thread, are only set around calls that cannot be told otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cudeform.gpu import cublas as products
from cudeform.gpu.protocol import Gemm, Kernel, Memory

# One tuple for all kernels: CuPy compiles an empty file for each new one it meets.
OPTIONS = ("--std=c++17",)

MULTIPROCESSOR_COUNT = 16  # cudaDevAttrMultiProcessorCount

# CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: parts of a sum that cuBLAS splits are added up
# in the precision of the sum, not in that of a half-precision result.
NO_REDUCED_PRECISION = 16

# Dynamic shared memory that every kernel may have; more must be asked for.
PLAIN_SHARED_BYTES = 48 * 1024


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
    """A stream by its address, as CuPy's launches and its stream protocol take it."""

    ptr: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.ptr


class CupyDevice:
    """One GPU and one stream."""

    def __init__(
        self, index: int, stream: int, allocate: Callable[[int], Memory] = pool_allocate
    ) -> None:
        """Choose where to run.

        Args:
            index: number of the device.
            stream: address of the stream, 0 for the default one.
            allocate: gives memory on that device that may be used on that stream.
        """
        self._cupy = usable_cupy()
        self._index, self._stream = index, _Stream(stream)
        self._current = self._cupy.cuda.Device(index)
        self._in_session = False
        self.compute_capability, self.multiprocessors = _properties(index)
        self.allocate = allocate

    def session(self) -> CupyDevice:
        """A context in which the device is CuPy's current one, for several launches at a time."""
        return self

    def __enter__(self) -> None:
        """Begin a session."""
        self._current.__enter__()
        self._in_session = True

    def __exit__(self, *error: object) -> None:
        """End it."""
        self._in_session = False
        self._current.__exit__(*error)

    def free_bytes(self) -> int:
        """Memory of the device that nobody holds."""
        with self._current:
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        """Set bytes to 0."""
        if not self._in_session:
            with self.session():
                self.fill_zero(pointer, nbytes)
            return
        self._cupy.cuda.runtime.memsetAsync(pointer, 0, nbytes, self._stream.ptr)

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
        if not self._in_session:
            with self.session():
                self.launch(kernel, blocks, threads, pointers, params, shared_bytes)
            return
        call = _compiled(kernel, self._index)
        if shared_bytes > PLAIN_SHARED_BYTES:
            _allow_shared(call, shared_bytes)
        call(
            (blocks,),
            (threads,),
            (*pointers, params),
            shared_mem=shared_bytes,
            stream=self._stream,
        )

    def gemm(self, gemm: Gemm, pointers: Sequence[int] | None = None) -> None:
        """Multiply matrices by cuBLAS."""
        if not self._in_session:
            with self.session():
                self.gemm(gemm, pointers)
            return
        with self._stream_of_cublas():
            at = gemm.pointers if pointers is None else pointers
            _multiply(self._cupy, self._stream.ptr, gemm, at)

    def _stream_of_cublas(self) -> AbstractContextManager[Any]:
        """Make the stream CuPy's current one, for cuBLAS is not told which to take."""
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


@cache
def _compiled(kernel: Kernel, index: int) -> Any:
    """A callable kernel; CuPy compiles it at its first use and keeps it on disk.

    One for each device, for how much shared memory a block may have is set for each device.
    """
    del index
    return usable_cupy().RawKernel(kernel.source, kernel.name, options=OPTIONS)


@cache
def _allow_shared(call: Any, nbytes: int) -> None:
    """Let blocks of a kernel have more dynamic shared memory than kernels have unasked."""
    if call.max_dynamic_shared_size_bytes < nbytes:  # it may be that of another launch
        call.max_dynamic_shared_size_bytes = nbytes


def _multiply(cupy: Any, stream: int, gemm: Gemm, pointers: Sequence[int]) -> None:
    cublas, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
    arguments = products.arguments(gemm, pointers)
    mode = cublas.getMathMode(handle)
    # The handle is everyone's in this thread.
    cublas.setMathMode(handle, mode | NO_REDUCED_PRECISION)
    try:
        cublas.gemmStridedBatchedEx(handle, *arguments)
    except NotImplementedError:  # the stream is being captured
        products.multiply(handle, cublas.getVersion(handle), stream, arguments)
    finally:
        cublas.setMathMode(handle, mode)
