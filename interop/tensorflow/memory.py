"""Memory of eager tensors: read where it is, and written before it becomes a tensor.

``Host`` serves tensors on the CPU, ``Device`` those on a GPU; the latter has not run yet. Results
are allocated here, written by the engine and lent to TensorFlow without a copy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from cudeform import engine
from cudeform.interop.cupy import ADAPTER as CUPY_ADAPTER
from cudeform.interop.dlpack_bfloat16 import export_bfloat16, import_bfloat16
from cudeform.interop.numpy import is_bfloat16

if TYPE_CHECKING:
    from cudeform.gpu.device_api.protocol import Executor

Shape = tuple[int, ...]

# TensorFlow ends the process when a kernel meets a tensor at another address:
# "Check failed: IsAligned()".
ALIGNMENT = 64


def memory_of(tensor: Any) -> Host | Device:
    """The memory that holds an eager tensor."""
    return Device(tensor) if "device:GPU:" in tensor.device else HOST


def device_of(tensor: Any) -> str:
    """The device of an eager tensor, to compare with others: logical CPUs share their memory."""
    device: str = tensor.device
    return "CPU" if "device:CPU:" in device else device


class Host:
    """Memory of the CPU, which NumPy reads and allocates."""

    executor: Executor | None = None

    def selected(self) -> AbstractContextManager[Any]:
        """Nothing to choose."""
        return nullcontext()

    def borrow(self, tensor: Any) -> Any:
        """A read-only array over the memory of a tensor."""
        return import_bfloat16(tensor) if tensor.dtype == tf.bfloat16 else np.from_dlpack(tensor)

    def empty(self, shape: Shape, dtype: tf.DType) -> tuple[Any, Any]:
        """A new array, and what :meth:`lend` makes a tensor of."""
        dtype = np.dtype(dtype.as_numpy_dtype)
        size = prod(shape) * dtype.itemsize
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        array = memory[start : start + size].view(dtype).reshape(shape)
        return array, array

    def describe(self, array: Any) -> Any:
        """An array as the engine takes it."""
        return array

    def lend(self, array: Any) -> Any:
        """A tensor over the memory of an array of :meth:`empty`."""
        if not array.size:
            return tf.zeros(array.shape, array.dtype)  # no memory that could be aligned
        producer = export_bfloat16(array) if is_bfloat16(array) else array
        return tf.experimental.dlpack.from_dlpack(producer.__dlpack__())

    def finish(self) -> None:
        """Nothing to wait for."""


HOST = Host()


class Device:
    """Memory of a GPU, which CuPy reads and TensorFlow allocates.

    TensorFlow gives access to none of its streams. It waits for its work when a tensor is exported,
    so the memory of all arguments is complete; :meth:`finish` waits for the engine's work, so that
    TensorFlow may read the results. TensorFlow holds nearly all memory of a GPU, hence results and
    workspace come from it too.
    """

    def __init__(self, tensor: Any) -> None:
        """Memory of the GPU that holds a tensor."""
        import cupy

        self._cupy = cupy
        self._name = tensor.device
        self._index = int(tensor.__dlpack_device__()[1])

    @property
    def executor(self) -> Executor:
        """The GPU, with CuPy's current stream."""
        return engine.gpu_device(self._index, self._stream().ptr, self._allocate)

    def selected(self) -> AbstractContextManager[Any]:
        """Makes the GPU the current one of CuPy."""
        device: AbstractContextManager[Any] = self._cupy.cuda.Device(self._index)
        return device

    def borrow(self, tensor: Any) -> Any:
        """An array over the memory of a tensor."""
        return self._cupy.from_dlpack(_WithoutStream(tensor))

    def empty(self, shape: Shape, dtype: tf.DType) -> tuple[Any, Any]:
        """A new array, and the tensor whose memory it is."""
        with tf.device(self._name):
            tensor = tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)
        return self.borrow(tensor), tensor

    def describe(self, array: Any) -> Any:
        """An array as the engine takes it."""
        return CUPY_ADAPTER.describe(array)

    def lend(self, tensor: Any) -> Any:
        """The tensor itself."""
        return tensor

    def finish(self) -> None:
        """Wait until the engine has written its results."""
        self._stream().synchronize()

    def _stream(self) -> Any:
        return self._cupy.cuda.get_current_stream(self._index)

    def _allocate(self, nbytes: int) -> Block:
        array, tensor = self.empty((nbytes,), tf.uint8)
        return Block(array.data.ptr, tensor)


class Block(NamedTuple):
    """Workspace on a GPU; the memory is that of the tensor."""

    pointer: int
    tensor: Any


class _WithoutStream:
    """A DLPack producer for consumers that name a stream, which TensorFlow refuses."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()

    def __dlpack__(self, **_: Any) -> Any:
        return self._tensor.__dlpack__()
