"""Two stand-ins for CUDA below the stand-in for CuPy: a log, and the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import pytest
from hostcuda import HostDevice
from support.cupy_stand_in import Cuda, CupyStandIn, ndarray

from cudeform.arrays import DeviceArray
from cudeform.gpu.cuda import cublas, device, prepared_launch
from cudeform.gpu.cuda.device import CupyDevice
from cudeform.gpu.device_api.commands import (
    Command,
    FillZero,
    Gemm,
    Kernel,
    KernelLaunch,
    Matrix,
    Step,
)
from cudeform.gpu.replay import launch_plans

DTYPES = {number: name for name, number in cublas.CUDA_TYPES.items()}

GEMM = Gemm(
    m=2,
    n=3,
    k=4,
    a=Matrix(5, 6, transposed=True),
    b=Matrix(7, 8),
    c=Matrix(9, 10),
    batch=11,
    dtype="float16",
    output_dtype="float32",
)
GEMM_POINTERS = (16, 32, 48)


def replay_one(
    device: CupyDevice, command: Command, pointers: Sequence[int] = GEMM_POINTERS
) -> None:
    """Replay a plan of one command."""
    addresses = tuple((base, 0) for base in range(len(pointers)))
    device.replay([Step(command, addresses)], pointers, [])


@contextmanager
def installed(backend: Cuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[CupyStandIn]:
    """``import cupy`` gives a stand-in, and cudeform knows nothing of any CuPy before it."""
    cupy = CupyStandIn(backend)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(launch_plans, "PLANS", launch_plans.PlanCache())
    monkeypatch.setattr(device, "_thread", device._Thread())
    caches = (device._properties, prepared_launch._compiled, prepared_launch._allow_shared)
    for cache in caches:
        cache.cache_clear()
    yield cupy
    for cache in caches:
        cache.cache_clear()


class RecordedCuda(Cuda):
    """Two devices that do nothing but write down, in order, what they are asked.

    Its kernels take two addresses and a struct of one number.

    Attributes:
        did: tuples of a word and arguments.
    """

    device_count = 2
    free_bytes, total_bytes = 1000, 2000
    function = 123

    def __init__(self) -> None:
        super().__init__()
        self.did: list[tuple[Any, ...]] = []
        self.math_mode = 5

    def kinds(self) -> list[str]:
        """The words alone."""
        return [did[0] for did in self.did]

    def enter(self, index: int) -> None:
        self.did.append(("enter", index))

    def leave(self, index: int) -> None:
        self.did.append(("exit", index))

    def memory_info(self) -> tuple[int, int]:
        self.did.append(("context",))
        return super().memory_info()

    def compile(self, source: str, name: str) -> int:
        self.did.append(("make", source, name))
        return self.function

    def allow_shared(self, nbytes: int) -> None:
        self.did.append(("allow", nbytes))

    def launch(self, *arguments: int) -> None:
        function, *shape, stream, table, extra = arguments
        assert (function, extra) == (self.function, 0)
        a, b, struct = (ctypes.c_size_t * 3).from_address(table)
        passed = [ctypes.c_size_t.from_address(at).value for at in (a, b)]
        passed.append(ctypes.c_int32.from_address(struct).value)
        self.did.append(("launch", shape, passed, stream))

    def fill(self, pointer: int, value: int, nbytes: int, stream: int) -> None:
        self.did.append(("zero", pointer, value, nbytes, stream))

    def multiply(self, *arguments: int) -> None:
        self.did.append(("gemm", self.stream, self.math_mode, *arguments))


class HostCuda(Cuda):
    """A device that computes on the CPU.

    Attributes:
        gpu: the device.
        streams: what launches, products and zeros were queued on.
    """

    def __init__(self, gpu: HostDevice) -> None:
        super().__init__()
        self.gpu, self.streams = gpu, set[int]()
        self.stream = 5
        self.compute_capability, self.multiprocessors = gpu.compute_capability, gpu.multiprocessors
        self._kernels: list[Kernel] = []

    def memory_info(self) -> tuple[int, int]:
        return self.gpu.free_bytes(), self.total_bytes

    def allocate(self, nbytes: int) -> Any:
        return self.gpu.allocate(nbytes)

    def compile(self, source: str, name: str) -> int:
        self._kernels.append(Kernel(name, source))
        return len(self._kernels)

    def launch(self, *arguments: int) -> None:
        """Read the kernel's arguments where cuLaunchKernel would, and run it."""
        function, blocks, *sizes, shared_bytes, stream, table, extra = arguments
        y, z, threads, threads_y, threads_z = sizes
        assert (y, z, threads_y, threads_z, extra) == (1, 1, 1, 1, 0)
        self.streams.add(stream)
        kernel = self._kernels[function - 1]
        library = self.gpu.library(kernel)
        addresses = (ctypes.c_size_t * (library.pointers + 1)).from_address(table)
        pointers = [ctypes.c_size_t.from_address(address).value for address in addresses[:-1]]
        struct = ctypes.string_at(addresses[-1], library.struct_bytes)
        params = np.frombuffer(struct, np.dtype((np.void, len(struct))))
        self.gpu.queue(KernelLaunch(kernel, blocks, threads, params, shared_bytes), pointers)

    def fill(self, pointer: int, value: int, nbytes: int, stream: int) -> None:
        assert value == 0
        self.streams.add(stream)
        self.gpu.queue(FillZero(nbytes), [pointer])

    def multiply(self, *arguments: int) -> None:
        handle, *product = arguments
        assert (handle, self.math_mode) == (self.handle, cublas.NO_REDUCED_PRECISION)
        self.streams.add(self.stream)
        self.gpu.queue(*gemm_of(product))

    def library(self) -> Libcublas:
        """cuBLAS itself, which takes a stream that is being captured."""
        return Libcublas(self)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        return self.gpu.allocate(prod(shape) * np.dtype(dtype).itemsize)

    def put(self, array: Any) -> Any:
        return self.gpu.put(array)

    def read(self, array: ndarray) -> Any:
        strides = tuple(stride // array.itemsize for stride in array.strides)
        described = DeviceArray(array.data.ptr, array.shape, strides, array.dtype.name)
        return self.gpu.read(described)


class Libcublas:
    """libcublas, as ctypes shows it.

    Attributes:
        multiplied: how many products were queued.
    """

    def __init__(self, cuda: HostCuda) -> None:
        self._cuda, self.multiplied = cuda, 0

    def cublasSetStream_v2(self, handle: int, stream: int) -> int:
        self._cuda.streams.add(stream)
        return 0

    def cublasGemmStridedBatchedEx(self, handle: int, *arguments: int) -> int:
        self._cuda.gpu.queue(*gemm_of(arguments))
        self.multiplied += 1
        return 0


def gemm_of(arguments: Sequence[int]) -> tuple[Gemm, tuple[int, int, int]]:
    """The product that cublasGemmStridedBatchedEx gets after the handle, and its pointers."""
    transa, transb, m, n, k, alpha, *matrices, batch, compute, algorithm = arguments
    a, a_type, a_ld, a_stride, b, b_type, b_ld, b_stride, beta, c, c_type, c_ld, c_stride = matrices
    dtype = DTYPES[a_type]
    scalar: Any = ctypes.c_double if dtype == "float64" else ctypes.c_float
    assert scalar.from_address(alpha).value == 1
    assert (b_type, algorithm) == (a_type, cublas.GEMM_DEFAULT)
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
        output_dtype=DTYPES[c_type],
        beta=scalar.from_address(beta).value,
        allow_tf32=compute == cublas.COMPUTE_32F_FAST_TF32,
    )
    return gemm, (a, b, c)
