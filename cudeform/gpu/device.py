"""A GPU through CuPy: memory, launches, cuBLAS. The only file that touches CuPy.

Kernels get raw addresses and an explicit stream; CuPy's current device and stream, which belong to
the thread, are only set around calls that cannot be told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.gpu.protocol import Gemm, Kernel, Memory

# One tuple for all kernels: CuPy compiles an empty file for each new one it meets.
OPTIONS = ("--std=c++17",)

CUDA_TYPES = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
OP_N, OP_T = 0, 1
GEMM_DEFAULT = -1
MULTIPROCESSOR_COUNT = 16  # cudaDevAttrMultiProcessorCount


class GpuUnavailableError(RuntimeError):
    """No GPU can be used; the text says what was found and what to do."""


def usable_cupy() -> Any:
    """CuPy, if it and a GPU are there.

    Raises:
        GpuUnavailableError: what is missing, and how to get it.
    """
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


@dataclass(frozen=True)
class PoolMemory:
    """Memory of CuPy's current pool."""

    owner: Any

    @property
    def pointer(self) -> int:
        """Address."""
        return int(self.owner.ptr)


def pool_allocate(nbytes: int) -> Memory:
    """Memory of CuPy's pool for the current device and stream."""
    return PoolMemory(usable_cupy().cuda.alloc(nbytes))


@dataclass(frozen=True)
class _Stream:
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
        self.allocate = allocate

    @property
    def compute_capability(self) -> int:
        """Such as 90 for sm_90."""
        return _properties(self._index)[0]

    @property
    def multiprocessors(self) -> int:
        """How many of them the device has."""
        return _properties(self._index)[1]

    def free_bytes(self) -> int:
        """Memory of the device that nobody holds."""
        with self._cupy.cuda.Device(self._index):
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        """Set bytes to 0."""
        with self._cupy.cuda.Device(self._index):
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
        with self._cupy.cuda.Device(self._index):
            _compiled(kernel)(
                (blocks,),
                (threads,),
                (*pointers, params),
                shared_mem=shared_bytes,
                stream=self._stream,
            )

    def gemm(self, gemm: Gemm) -> None:
        """Multiply matrices by cuBLAS."""
        with self._current():
            try:
                _multiply(self._cupy, gemm)
            except NotImplementedError as error:
                raise RuntimeError(
                    "CuPy refuses cuBLAS while a CUDA graph is captured; run this call outside the "
                    "capture"
                ) from error

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make device and stream CuPy's current ones, for calls that take no stream."""
        with self._cupy.cuda.Device(self._index):
            if self._cupy.cuda.get_current_stream().ptr == self._stream.ptr:
                yield
            else:
                with self._cupy.cuda.Stream.from_external(self._stream):
                    yield


@cache
def _properties(index: int) -> tuple[int, int]:
    """Compute capability and number of multiprocessors."""
    cupy = usable_cupy()
    capability = int(cupy.cuda.Device(index).compute_capability)
    return capability, cupy.cuda.runtime.deviceGetAttribute(MULTIPROCESSOR_COUNT, index)


@cache
def _compiled(kernel: Kernel) -> Any:
    """A callable kernel; CuPy compiles it at its first use on each device and keeps it on disk."""
    return usable_cupy().RawKernel(kernel.source, kernel.name, options=OPTIONS)


def _multiply(cupy: Any, gemm: Gemm) -> None:
    double = gemm.dtype == "float64"
    compute = COMPUTE_64F if double else COMPUTE_32F
    if gemm.allow_tf32 and gemm.dtype == "float32":
        compute = COMPUTE_32F_FAST_TF32
    scale = np.float64 if double else np.float32
    alpha, beta = np.array(1, scale), np.array(gemm.beta, scale)
    kind, output_kind = CUDA_TYPES[gemm.dtype], CUDA_TYPES[gemm.output_dtype]
    cupy.cuda.cublas.gemmStridedBatchedEx(
        cupy.cuda.device.get_cublas_handle(),
        *(OP_T if matrix.transposed else OP_N for matrix in (gemm.a, gemm.b)),
        *(gemm.m, gemm.n, gemm.k),
        alpha.ctypes.data,
        *(gemm.a.pointer, kind, gemm.a.leading, gemm.a.stride),
        *(gemm.b.pointer, kind, gemm.b.leading, gemm.b.stride),
        beta.ctypes.data,
        *(gemm.c.pointer, output_kind, gemm.c.leading, gemm.c.stride),
        gemm.batch,
        compute,
        GEMM_DEFAULT,
    )
