"""The library of an array, through functions that all of them have under the same names.

So results stay in their library, on their device, in their graph; no library is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

# Where each library keeps its functions.
LIBRARIES = {"numpy": "numpy", "cupy": "cupy", "torch": "torch", "jax": "jax.numpy"}


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
        known = _library(array)
        if known is None:
            raise TypeError(
                f"offset must be an array of {', '.join(LIBRARIES)} or another library that has "
                f"__dlpack__, got {type(array).__name__}"
            )
        library, xp = known
        return cls(
            xp=xp,
            dtype=xp.float64 if dtype_name(array) == "float64" else xp.float32,
            # CuPy computes on the current device, NumPy has one, JAX moves a range by itself.
            device=array.device if library == "cupy" else nullcontext(),
            place={"device": array.device} if library == "torch" else {},
        )

    def range(self, count: int) -> Any:
        """0, 1, ... as floats."""
        return self.xp.arange(count, dtype=self.dtype, **self.place)

    def cast(self, array: Any) -> Any:
        """The array in the dtype for coordinates."""
        if array.dtype == self.dtype:
            return array
        return array.astype(self.dtype) if hasattr(array, "astype") else array.to(self.dtype)


def borrowed(array: Any) -> Any:
    """The array, or one by NumPy or CuPy over the memory of an array of another library.

    What is no array comes out as it is.
    """
    return _dlpack().import_array(array) if _is_foreign(array) else array


def way_back(array: Any) -> Callable[[Any], Any]:
    """From what :func:`borrowed` gave to the library of the array."""
    if _is_foreign(array):
        found: Callable[[Any], Any] = _dlpack().exporter_of(array)
        return found
    return lambda result: result


def _dlpack() -> Any:
    # Imported late: it loads the engines, and `import cudeform` must stay fast.
    from cudeform.interop import dlpack

    return dlpack


def _is_foreign(array: Any) -> bool:
    lends = hasattr(array, "__dlpack__") or hasattr(array, "__cuda_array_interface__")
    return lends and _library(array) is None


def _library(array: Any) -> tuple[str, Any] | None:
    """Name and functions of the library that an array belongs to, if it is known here."""
    for base in type(array).__mro__:
        # JAX's arrays are made in jaxlib, its tracers in jax.
        name = base.__module__.partition(".")[0].replace("jaxlib", "jax")
        if name in LIBRARIES:
            return name, sys.modules[LIBRARIES[name]]
    return None


def dtype_name(array: Any) -> str:
    """Name of an array's dtype, without that of its library."""
    return str(array.dtype).rpartition(".")[2]
