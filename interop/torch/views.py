"""Views of tensors for the engine, over the same memory, without copies.

On the CPU the engine gets NumPy views of the tensors. On a GPU it gets their addresses, torch's
current stream, and memory from torch's allocator.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cudeform import engine
from cudeform.arrays import DeviceArray, Operands
from cudeform.options import Options

Tensor = Any
Tensors = tuple[Any, ...]

DTYPE_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}

NUMPY_DTYPES = {dtype: np.dtype(name) for dtype, name in DTYPE_NAMES.items() if name != "bfloat16"}


def dtype_name(dtype: Any) -> str:
    """Name of a dtype, spelled as in ``checks.DTYPES``."""
    return DTYPE_NAMES.get(dtype) or str(dtype).removeprefix("torch.")


def run_engine(
    function: Callable[..., None],
    operands: Tensors,
    geometry: Any,
    options: Options,
    *tensors: Any,
) -> None:
    """Call a function of the engine.

    Args:
        function: a function of ``cudeform.engine``.
        operands: input, offset, weight, bias, mask.
        geometry, options: geometry and options of the call.
        tensors: the other arguments of the function: tensors and named tuples of tensors.
    """
    if operands[0].is_cuda:
        run_engine_on_gpu(function, operands, geometry, options, *tensors)
    else:
        views = [_viewed(_as_numpy, tensor) for tensor in tensors]
        function(Operands(*_each(_as_numpy, operands)), geometry, options, *views)


def run_engine_on_gpu(
    function: Callable[..., None],
    operands: Tensors,
    geometry: Any,
    options: Options,
    *tensors: Any,
) -> None:
    """Call a function of the engine on the device of the operands, in torch's current stream."""
    index = operands[0].device.index
    if torch.are_deterministic_algorithms_enabled():
        options = replace(options, deterministic=True)
    with torch.cuda.device(index):
        # This is torch's stream, not CuPy's: in its own threads, autograd sets only torch's.
        stream = torch.cuda.current_stream(index).cuda_stream
        full = (torch.cuda.OutOfMemoryError,)
        device = engine.gpu_device(index, stream, TorchMemory, out_of_memory=full)
        views = [_viewed(_as_device_array, tensor) for tensor in tensors]
        viewed = Operands(*_each(_as_device_array, operands))
        function(viewed, geometry, options, *views, device=device)


class TorchMemory:
    """Memory of torch's allocator on the current device and stream, released with the object."""

    def __init__(self, nbytes: int) -> None:
        """Allocate."""
        self._tensor = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        self.pointer: int = self._tensor.data_ptr()


def _viewed(view: Callable[[Tensor], Any], tensors: Any) -> Any:
    """A view of a tensor, or a named tuple of views."""
    if isinstance(tensors, tuple):
        return type(tensors)(*_each(view, tensors))
    return view(tensors)


def _each(view: Callable[[Tensor], Any], tensors: Tensors) -> list[Any]:
    return [None if tensor is None else view(tensor) for tensor in tensors]


def _as_numpy(tensor: Tensor) -> Any:
    """A NumPy array over the memory of a tensor. The array does not keep the tensor alive.

    ``Tensor.numpy()`` is not used, because it makes the storage impossible to resize or free.
    """
    address = tensor.data_ptr()
    if not address and tensor.numel():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no memory: it was freed")
    dtype = _bfloat16() if tensor.dtype is torch.bfloat16 else NUMPY_DTYPES[tensor.dtype]
    memory = _MEMORY.from_address(address)
    if tensor.is_contiguous():
        return np.ndarray(tensor.shape, dtype, memory)
    strides = tuple([stride * tensor.itemsize for stride in tensor.stride()])
    return np.ndarray(tensor.shape, dtype, memory, 0, strides)


# A buffer type that covers all memory after an address; an array's shape and strides bound access.
_MEMORY = ctypes.c_char * 2 ** (8 * ctypes.sizeof(ctypes.c_void_p) - 2)


def _bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise ImportError(
            "bfloat16 tensors on the CPU need the package ml_dtypes: pip install ml_dtypes"
        ) from error
    return bfloat16


def _as_device_array(tensor: Tensor) -> DeviceArray:
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    return DeviceArray(tensor.data_ptr(), shape, strides, dtype_name(tensor.dtype))
