"""The adapter for NumPy arrays, ml_dtypes.bfloat16 included."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .array_adapter import ArrayAdapter


class NumpyAdapter(ArrayAdapter):
    """Passes NumPy arrays to the CPU engine unchanged."""

    def dtype_name(self, array: Any) -> str:
        """Name of the dtype, spelled as in ``checks.DTYPES``."""
        return _name(array.dtype)

    def device_of(self, array: Any) -> str:
        """The CPU."""
        return "cpu"

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """A new contiguous array."""
        return np.empty(shape, like.dtype)

    def describe(self, array: Any) -> Any:
        """A view as a plain ndarray, because subclasses may redefine indexing and operators."""
        return np.asarray(array)


ADAPTER = NumpyAdapter()


@cache
def _name(dtype: Any) -> str:
    """Name of a dtype; cached because NumPy builds the string at every access."""
    # A byte-swapped float32 has the name float32 too, but the engine cannot read it.
    return str(dtype.name if dtype.isnative else dtype.str)


def is_bfloat16(array: Any) -> bool:
    """Whether an array is a NumPy array of ml_dtypes.bfloat16."""
    return isinstance(array, np.ndarray) and array.dtype.name == "bfloat16"
