"""A stand-in for CuPy: the names that cudeform takes from it, on a machine without a GPU.

``CupyStandIn`` is the module. Calls that would reach CUDA go to a ``Cuda`` object. This class does
nothing, as benchmarks/host_time.py needs it; ``cupy_cuda.py`` has one that records calls and one
that computes on the CPU. tests/interop/cupy/test_real_cupy.py checks that the real CuPy has all
names of the stand-in.

Nothing but NumPy is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

CUBLAS_VERSION = 130500
PLAIN_SHARED_BYTES = 48 * 1024


class Cuda:
    """CUDA that does nothing, with one cuBLAS handle.

    Attributes:
        handle: the cuBLAS handle.
        math_mode: its math mode.
        stream: address of CuPy's current stream.
        capturing: whether the stream is being captured, which makes CuPy refuse cuBLAS.
    """

    handle = 77
    compute_capability = 90
    multiprocessors = 132
    device_count = 1
    free_bytes = 2**36
    total_bytes = 2**37

    def __init__(self) -> None:
        self.math_mode, self.stream, self.capturing = 0, 0, False

    def enter(self, index: int) -> None:
        """Make a device the current one."""

    def leave(self, index: int) -> None:
        """Make the previous device the current one again."""

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes; the first call of a thread makes a context of the device."""
        return self.free_bytes, self.total_bytes

    def compile(self, source: str, name: str) -> int:
        """Address of a compiled function."""
        return 123

    def allow_shared(self, nbytes: int) -> None:
        """Raise the limit of dynamic shared memory of a kernel."""

    def allocate(self, nbytes: int) -> Any:
        """An object with a ``pointer``, which is freed with it."""
        return _MEMORY

    def launch(self, *arguments: int) -> None:
        """The arguments of cuLaunchKernel."""

    def fill(self, pointer: int, value: int, nbytes: int, stream: int) -> None:
        """The arguments of cudaMemsetAsync."""

    def multiply(self, *arguments: int) -> None:
        """The arguments of cublasGemmStridedBatchedEx."""

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """New memory, as of ``allocate``, for an array."""
        return _MEMORY

    def put(self, array: Any) -> Any:
        """New memory, as of ``allocate``, with the contents of a contiguous NumPy array."""
        raise NotImplementedError

    def read(self, array: ndarray) -> Any:
        """Copy an array to the host."""
        raise NotImplementedError


_MEMORY = SimpleNamespace(pointer=512)


class ndarray:
    """An array on the stand-in's only device; the adapter knows CuPy's arrays by the name."""

    __module__ = "cupy"

    def __init__(
        self, cupy: Any, pointer: int, shape: Sequence[int], dtype: Any, owner: Any = None
    ) -> None:
        """Contiguous memory that ``owner`` keeps alive."""
        self._cupy, self._owner = cupy, owner
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        steps = [self.itemsize]
        for size in reversed(self.shape[1:]):
            steps.append(steps[-1] * size)
        self.strides = tuple(reversed(steps)) if self.shape else ()
        self.data = SimpleNamespace(ptr=pointer)
        self.device = cupy.device

    def transpose(self, *order: int) -> ndarray:
        """A view."""
        view = ndarray(self._cupy, self.data.ptr, self.shape, self.dtype, self._owner)
        view.shape = tuple(self.shape[axis] for axis in order)
        view.strides = tuple(self.strides[axis] for axis in order)
        return view

    def copy(self) -> ndarray:
        """A contiguous copy."""
        copied: ndarray = self._cupy.asarray(self._cupy.asnumpy(self))
        return copied


class CupyStandIn(ModuleType):
    """The module ``cupy``.

    Attributes:
        backend: stands for CUDA.
        device: that of all arrays.
    """

    def __init__(self, backend: Cuda) -> None:
        super().__init__("cupy")
        self.__spec__ = ModuleSpec("cupy", None)
        self.__version__ = "stand-in"
        self.backend = backend
        self.ndarray = ndarray
        self.is_available = lambda: backend.device_count > 0
        self.RawKernel = _raw_kernel_of(backend)
        self.cuda = _cuda_module(backend)
        self.device = self.cuda.Device(0)

    def empty(self, shape: Sequence[int], dtype: Any) -> ndarray:
        """New memory."""
        memory = self.backend.empty(shape, dtype)
        return ndarray(self, memory.pointer, shape, dtype, memory)

    def asarray(self, array: Any) -> ndarray:
        """A view of what has the CUDA array interface, a copy of a NumPy array."""
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is not None:
            pointer, _ = interface["data"]
            return ndarray(self, pointer, interface["shape"], interface["typestr"], array)
        memory = self.backend.put(np.ascontiguousarray(array))
        return ndarray(self, memory.pointer, array.shape, array.dtype, memory)

    def from_dlpack(self, array: Any) -> ndarray:
        """The stand-in's own array, which stands for a capsule."""
        imported: ndarray = array.__dlpack__()
        return imported

    def asnumpy(self, array: ndarray) -> Any:
        """A copy on the host."""
        return self.backend.read(array)


def _raw_kernel_of(backend: Cuda) -> type:
    class RawKernel:
        def __init__(self, code: str, name: str, options: tuple[str, ...] = ()) -> None:
            self.kernel = SimpleNamespace(ptr=backend.compile(code, name))
            self._limit = PLAIN_SHARED_BYTES

        @property
        def max_dynamic_shared_size_bytes(self) -> int:
            return self._limit

        @max_dynamic_shared_size_bytes.setter
        def max_dynamic_shared_size_bytes(self, nbytes: int) -> None:
            backend.allow_shared(nbytes)
            self._limit = nbytes

    return RawKernel


def _cuda_module(backend: Cuda) -> SimpleNamespace:
    """``cupy.cuda``."""

    def alloc(size: int) -> SimpleNamespace:
        memory = backend.allocate(size)
        return SimpleNamespace(ptr=memory.pointer, memory=memory)

    def multiply(*arguments: int) -> None:
        if backend.capturing:
            raise NotImplementedError("calling cuBLAS API during stream capture")
        backend.multiply(*arguments)

    def set_math_mode(handle: int, mode: int) -> None:
        assert handle == backend.handle
        backend.math_mode = mode

    return SimpleNamespace(
        Device=_device_of(backend),
        Stream=_stream_of(backend),
        alloc=alloc,
        get_current_stream=lambda device_id=-1: SimpleNamespace(ptr=backend.stream),
        driver=SimpleNamespace(launchKernel=backend.launch),
        device=SimpleNamespace(get_cublas_handle=lambda: backend.handle),
        cublas=SimpleNamespace(
            gemmStridedBatchedEx=multiply,
            getMathMode=lambda handle: backend.math_mode,
            setMathMode=set_math_mode,
            getVersion=lambda handle: CUBLAS_VERSION,
        ),
        runtime=SimpleNamespace(
            CUDARuntimeError=RuntimeError,
            getDeviceCount=lambda: backend.device_count,
            getDeviceProperties=lambda device: {"name": b"a stand-in"},
            deviceGetAttribute=lambda attrib, device: backend.multiprocessors,
            memGetInfo=backend.memory_info,
            memsetAsync=backend.fill,
        ),
    )


def _device_of(backend: Cuda) -> type:
    class Device:
        def __init__(self, device: int = 0) -> None:
            self.id = device

        @property
        def compute_capability(self) -> str:
            return str(backend.compute_capability)

        def __enter__(self) -> Device:
            backend.enter(self.id)
            return self

        def __exit__(self, *error: object) -> None:
            backend.leave(self.id)

    return Device


def _stream_of(backend: Cuda) -> type:
    class Stream:
        def __init__(self, ptr: int) -> None:
            self.ptr = ptr

        @classmethod
        def from_external(cls, obj: Any) -> Stream:
            return cls(obj.__cuda_stream__()[1])

        def __enter__(self) -> Stream:
            self._previous, backend.stream = backend.stream, self.ptr
            return self

        def __exit__(self, *error: object) -> None:
            backend.stream = self._previous

    return Stream


def install(backend: Cuda) -> CupyStandIn:
    """Make ``import cupy`` give a stand-in, for the rest of the process."""
    cupy = CupyStandIn(backend)
    sys.modules["cupy"] = cupy
    return cupy
