"""Memory of eager tensors: access for the engine, and allocation of results.

``Host`` is for tensors on the CPU, ``Device`` for tensors on a GPU, which has not run yet. Results
are allocated here, written by the engine, then shared with TensorFlow without a copy.
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

# TensorFlow aborts the process if a tensor's address is not a multiple of this:
# "Check failed: IsAligned()".
ALIGNMENT = 64


def memory_of(tensor: Any) -> Host | Device:
    """The memory that holds an eager tensor."""
    return Device(tensor) if "device:GPU:" in tensor.device else HOST


def device_of(tensor: Any) -> str:
    """The device of an eager tensor, for comparison: all logical CPUs count as one device."""
    device: str = tensor.device
    return "CPU" if "device:CPU:" in device else device


class Host:
    """Memory of the CPU, accessed through NumPy."""

    executor: Executor | None = None

    def selected(self) -> AbstractContextManager[Any]:
        """A context without effect: there is one CPU."""
        return nullcontext()

    def borrow(self, tensor: Any) -> Any:
        """A read-only array that shares the memory of a tensor."""
        return import_bfloat16(tensor) if tensor.dtype == tf.bfloat16 else np.from_dlpack(tensor)

    def empty(self, shape: Shape, dtype: tf.DType) -> tuple[Any, Any]:
        """A new array, and the object that :meth:`lend` converts to a tensor."""
        dtype = np.dtype(dtype.as_numpy_dtype)
        size = prod(shape) * dtype.itemsize
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        array = memory[start : start + size].view(dtype).reshape(shape)
        return array, array

    def describe(self, array: Any) -> Any:
        """The description of an array that the engine takes."""
        return array

    def lend(self, array: Any) -> Any:
        """A tensor that shares the memory of an array of :meth:`empty`."""
        if not array.size:
            return tf.zeros(array.shape, array.dtype)  # an empty array has no address to align
        producer = export_bfloat16(array) if is_bfloat16(array) else array
        return tf.experimental.dlpack.from_dlpack(producer.__dlpack__())

    def finish(self) -> None:
        """Return at once: the engine has written the results."""


HOST = Host()


class Device:
    """Memory of a GPU, allocated by TensorFlow and accessed through CuPy.

    TensorFlow gives no access to its streams. When a tensor is exported, TensorFlow waits for its
    own work, so all arguments are complete. :meth:`finish` waits for the engine's work, so that
    TensorFlow can read the results. TensorFlow reserves nearly all memory of a GPU, so results and
    workspace are allocated by it too.
    """

    def __init__(self, tensor: Any) -> None:
        """Select the GPU of a tensor."""
        import cupy

        self._cupy = cupy
        self._name = tensor.device
        self._index = int(tensor.__dlpack_device__()[1])

    @property
    def executor(self) -> Executor:
        """The GPU, with CuPy's current stream."""
        return engine.gpu_device(self._index, self._stream().ptr, self._allocate)

    def selected(self) -> AbstractContextManager[Any]:
        """A context in which the GPU is CuPy's current device."""
        device: AbstractContextManager[Any] = self._cupy.cuda.Device(self._index)
        return device

    def borrow(self, tensor: Any) -> Any:
        """An array that shares the memory of a tensor."""
        return self._cupy.from_dlpack(_WithoutStream(tensor))

    def empty(self, shape: Shape, dtype: tf.DType) -> tuple[Any, Any]:
        """A new array, and the tensor with which it shares its memory."""
        with tf.device(self._name):
            tensor = tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)
        return self.borrow(tensor), tensor

    def describe(self, array: Any) -> Any:
        """The description of an array that the engine takes."""
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
    """Workspace on a GPU, in the memory of a tensor."""

    pointer: int
    tensor: Any


class _WithoutStream:
    """A DLPack producer that ignores the consumer's stream, which TensorFlow would refuse."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()

    def __dlpack__(self, **_: Any) -> Any:
        return self._tensor.__dlpack__()
