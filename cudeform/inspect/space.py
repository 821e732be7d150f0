"""The library of an array, through functions that all of them have under the same names.

So results stay in their library, on their device, in their graph; no library is imported for it.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Space:
    """The library of an array: its functions, its float dtype for coordinates, its device."""

    xp: Any
    dtype: Any
    device: AbstractContextManager[Any]
    place: dict[str, Any]

    @classmethod
    def of(cls, array: Any) -> Space:
        """Where an array lives."""
        library, xp = _library(array)
        return cls(
            xp=xp,
            dtype=xp.float64 if dtype_name(array) == "float64" else xp.float32,
            # CuPy computes on the current device, NumPy has one, JAX moves a range by itself.
            device=array.device if library == "cupy" else nullcontext(),
            place={} if library in ("numpy", "cupy", "jax") else {"device": array.device},
        )

    def range(self, count: int) -> Any:
        """0, 1, ... as floats."""
        return self.xp.arange(count, dtype=self.dtype, **self.place)

    def cast(self, array: Any) -> Any:
        """The array in the dtype for coordinates."""
        if array.dtype == self.dtype:
            return array
        return array.astype(self.dtype) if hasattr(array, "astype") else array.to(self.dtype)


def _library(array: Any) -> tuple[str, Any]:
    """Name and functions of the library that an array belongs to."""
    if hasattr(array, "__array_namespace__"):
        xp = array.__array_namespace__()
        return xp.__name__.partition(".")[0], xp
    for base in type(array).__mro__:
        name = base.__module__.partition(".")[0]
        if hasattr(sys.modules.get(name), "hypot"):
            return name, sys.modules[name]
    raise TypeError(
        f"offset must be an array of NumPy, CuPy, PyTorch, JAX or another library that has "
        f"__array_namespace__, got {type(array).__name__}; numpy.from_dlpack borrows it"
    )


def dtype_name(array: Any) -> str:
    """Name of an array's dtype, without that of its library."""
    return str(array.dtype).rpartition(".")[2]
