"""NumPy arrays over device memory."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    # of indices that kernels write
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint32": np.dtype(np.uint32),
    "uint8": np.dtype(np.uint8),
}
if find_spec("ml_dtypes"):
    from ml_dtypes import bfloat16

    DTYPES["bfloat16"] = np.dtype(bfloat16)

# The bytes from one address to another; raises if they are not all of one buffer.
Memory = Callable[[int, int], NDArray[np.uint8]]


def reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """The lowest element of an array and one past the highest, relative to its first."""
    if 0 in shape:
        return 0, 0
    distances = [stride * (size - 1) for stride, size in zip(strides, shape, strict=True)]
    return sum(min(0, d) for d in distances), 1 + sum(max(0, d) for d in distances)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array without gaps, last dimension fastest."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides)) if shape else ()


def view(
    pointer: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, memory: Memory
) -> NDArray[Any]:
    """The elements at an address; strides in elements, of any sign."""
    kind = DTYPES[dtype]
    if pointer % kind.itemsize:
        raise ValueError(f"the address {pointer:#x} is misaligned for {dtype}")
    low, high = reach(shape, strides)
    data = memory(pointer + low * kind.itemsize, pointer + high * kind.itemsize).view(kind)
    return as_strided(data[-low:], shape, tuple(stride * kind.itemsize for stride in strides))
