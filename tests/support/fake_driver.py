"""What CuPy passes on to CUDA, carried out by the host's device: launches, products, zeros."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
from hostcuda import HostDevice

from cudeform.gpu.cuda import cublas
from cudeform.gpu.device_api.commands import Gemm, Kernel, Matrix

HANDLE = 77
DTYPES = {number: name for name, number in cublas.CUDA_TYPES.items()}


class Driver:
    """CUDA on a host's device.

    Attributes:
        gpu: the device.
        streams: what launches, products and zeros were queued on.
        capturing: whether cuBLAS is refused, as in a stream that is being captured.
    """

    def __init__(self, gpu: HostDevice) -> None:
        """Run on ``gpu``."""
        self.gpu, self.streams, self.capturing = gpu, set[int](), False
        self._kernels: list[Kernel] = []
        self._mode = 0

    def module(self) -> SimpleNamespace:
        """``cupy.cuda``, as far as the engine uses it."""
        return SimpleNamespace(
            alloc=self._alloc,
            driver=SimpleNamespace(launchKernel=self._launch),
            device=SimpleNamespace(get_cublas_handle=lambda: HANDLE),
            cublas=SimpleNamespace(
                gemmStridedBatchedEx=self._multiply,
                getMathMode=lambda _: self._mode,
                setMathMode=self._set_mode,
                getVersion=lambda _: 130500,
            ),
            runtime=SimpleNamespace(
                deviceGetAttribute=lambda *_: self.gpu.multiprocessors,
                getDeviceCount=lambda: 1,
                getDeviceProperties=lambda _: {"name": b"the host"},
                memGetInfo=lambda: (self.gpu.free_bytes(), 2**32),
                memsetAsync=self._fill,
            ),
        )

    def raw_kernel(self, source: str, name: str, options: tuple[str, ...]) -> RawKernel:
        """``cupy.RawKernel``."""
        self._kernels.append(Kernel(name, source))
        return RawKernel(len(self._kernels))

    def _alloc(self, nbytes: int) -> Any:
        buffer = self.gpu.allocate(nbytes)
        return SimpleNamespace(ptr=buffer.pointer, buffer=buffer)

    def _launch(
        self,
        function: int,
        blocks: int,
        blocks_y: int,
        blocks_z: int,
        threads: int,
        threads_y: int,
        threads_z: int,
        shared_bytes: int,
        stream: int,
        table: int,
        extra: int,
    ) -> None:
        """Read the arguments where cuLaunchKernel would, and run."""
        assert (blocks_y, blocks_z, threads_y, threads_z, extra) == (1, 1, 1, 1, 0)
        self.streams.add(stream)
        kernel = self._kernels[function - 1]
        library = self.gpu.library(kernel)
        addresses = (ctypes.c_size_t * (library.pointers + 1)).from_address(table)
        pointers = [ctypes.c_size_t.from_address(address).value for address in addresses[:-1]]
        struct = ctypes.string_at(addresses[-1], library.struct_bytes)
        params = np.frombuffer(struct, np.dtype((np.void, len(struct))))
        self.gpu.launch(kernel, blocks, threads, pointers, params, shared_bytes)

    def _fill(self, pointer: int, value: int, nbytes: int, stream: int) -> None:
        assert value == 0
        self.streams.add(stream)
        self.gpu.fill_zero(pointer, nbytes)

    def _set_mode(self, handle: int, mode: int) -> None:
        assert handle == HANDLE
        self._mode = mode

    def _multiply(self, handle: int, *arguments: int) -> None:
        if self.capturing:
            raise NotImplementedError("calling cuBLAS API during stream capture")
        assert (handle, self._mode) == (HANDLE, cublas.NO_REDUCED_PRECISION)
        self.gpu.gemm(*gemm_of(arguments))


class RawKernel:
    """A compiled kernel."""

    def __init__(self, function: int) -> None:
        """Its address stands for it."""
        self.kernel = SimpleNamespace(ptr=function)
        self.max_dynamic_shared_size_bytes = 48 * 1024


def gemm_of(arguments: tuple[int, ...]) -> tuple[Gemm, tuple[int, int, int]]:
    """The product that arguments of cublasGemmStridedBatchedEx ask for, and its pointers."""
    transa, transb, m, n, k, alpha, *matrices, batch, compute, algorithm = arguments
    (
        a,
        of_a,
        a_ld,
        a_stride,
        b,
        of_b,
        b_ld,
        b_stride,
        beta,
        c,
        of_c,
        c_ld,
        c_stride,
    ) = matrices
    dtype = DTYPES[of_a]
    factor: Any = ctypes.c_double if dtype == "float64" else ctypes.c_float
    assert factor.from_address(alpha).value == 1
    assert (of_b, algorithm) == (of_a, cublas.GEMM_DEFAULT)
    assert (compute == cublas.COMPUTE_64F) == (dtype == "float64")
    gemm = Gemm(
        m=m,
        n=n,
        k=k,
        a=Matrix(a_ld, a_stride, transposed=transa == cublas.OP_T),
        b=Matrix(b_ld, b_stride, transposed=transb == cublas.OP_T),
        c=Matrix(c_ld, c_stride),
        batch=batch,
        dtype=dtype,
        output_dtype=DTYPES[of_c],
        beta=factor.from_address(beta).value,
        allow_tf32=compute == cublas.COMPUTE_32F_FAST_TF32,
    )
    return gemm, (a, b, c)
