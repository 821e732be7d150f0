"""The adapter for CuPy arrays: their own device, the caller's current stream, CuPy's pool."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from cudeform import engine
from cudeform.arrays import DeviceArray

from .array_adapter import ArrayAdapter

if TYPE_CHECKING:
    from cudeform.gpu.device_api.protocol import Executor


class CupyAdapter(ArrayAdapter):
    """Passes CuPy arrays to the GPU engine as addresses, shapes and strides."""

    def dtype_name(self, array: Any) -> str:
        """Name of the dtype, spelled as in ``checks.DTYPES``."""
        return _name(array.dtype)

    def device_of(self, array: Any) -> str:
        """The device in the notation of torch and JAX, such as ``cuda:0``."""
        return f"cuda:{array.device.id}"

    def device_context(self, array: Any) -> AbstractContextManager[Any]:
        """A context in which the device of ``array`` is CuPy's current one."""
        context: AbstractContextManager[Any] = array.device
        return context

    def executor(self, array: Any) -> Executor:
        """The device of ``array``, with CuPy's current stream."""
        import cupy

        index = array.device.id
        return engine.gpu_device(index, cupy.cuda.get_current_stream(index).ptr)

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """A new contiguous array from CuPy's memory pool."""
        import cupy

        return cupy.empty(shape, like.dtype)

    def describe(self, array: Any) -> DeviceArray:
        """Address, shape, strides and dtype, for kernels that need aligned elements.

        Raises:
            ValueError: the address or a stride is not a multiple of the element size.
        """
        dtype, pointer = array.dtype, array.data.ptr
        if pointer % dtype.itemsize:
            raise _misaligned(dtype, "address", pointer)
        return DeviceArray(pointer, array.shape, _in_elements(array.strides, dtype), _name(dtype))


ADAPTER = CupyAdapter()


@lru_cache(maxsize=4096)
def _in_elements(strides: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Convert strides from bytes to elements."""
    if any(stride % dtype.itemsize for stride in strides):
        raise _misaligned(dtype, "strides", strides)
    return tuple(stride // dtype.itemsize for stride in strides)


def _misaligned(dtype: Any, what: str, got: Any) -> ValueError:
    return ValueError(
        f"an array of {dtype.name} on a GPU must have an address and strides that are multiples of "
        f"{dtype.itemsize} bytes, got {what} {got}; copy it byte by byte"
    )


@cache
def _name(dtype: Any) -> str:
    """Name of a dtype; cached because NumPy builds the string at every access."""
    return str(dtype.name)
