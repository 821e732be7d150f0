"""Access to the functions of an array's library, under the names that all libraries share.

Results stay in the library of the array, on its device and in its autograd graph. No library is
imported to recognise an array: whoever made the array has imported its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

# The module with each library's functions.
LIBRARIES = {"numpy": "numpy", "cupy": "cupy", "torch": "torch", "jax": "jax.numpy"}


@dataclass(frozen=True)
class Namespace:
    """The library of an array.

    Attributes:
        xp: the module with its functions.
        dtype: the library's dtype for coordinates: float64 for a float64 array, else float32.
        device_context: context manager in which new arrays are on the array's device.
        device_kwargs: keyword arguments that put a new array on that device.
    """

    xp: Any
    dtype: Any
    device_context: AbstractContextManager[Any]
    device_kwargs: dict[str, Any]

    @classmethod
    def of(cls, array: Any) -> Namespace:
        """The namespace of an array.

        Raises:
            TypeError: the library of the array is unknown.
        """
        known = _known_library(array)
        if known is None:
            raise TypeError(
                f"offset must be an array of {', '.join(LIBRARIES)} or another library that has "
                f"__dlpack__, got {type(array).__name__}"
            )
        library, xp = known
        return cls(
            xp=xp,
            dtype=xp.float64 if dtype_name(array) == "float64" else xp.float32,
            # CuPy allocates on the current device. JAX moves a new array to the operand's device.
            device_context=array.device if library == "cupy" else nullcontext(),
            device_kwargs={"device": array.device} if library == "torch" else {},
        )

    def arange(self, count: int) -> Any:
        """The numbers 0 to ``count - 1`` in the dtype for coordinates."""
        return self.xp.arange(count, dtype=self.dtype, **self.device_kwargs)

    def cast(self, array: Any) -> Any:
        """Convert an array to the dtype for coordinates."""
        if array.dtype == self.dtype:
            return array
        return array.astype(self.dtype) if hasattr(array, "astype") else array.to(self.dtype)


def dtype_name(array: Any) -> str:
    """Name of an array's dtype, without the name of its library."""
    return str(array.dtype).rpartition(".")[2]


def import_foreign(array: Any) -> Any:
    """Import an array of an unknown library into NumPy or CuPy, over the same memory.

    Any other object is returned unchanged.
    """
    return _dlpack().import_array(array) if _is_foreign(array) else array


def exporter_of(array: Any) -> Callable[[Any], Any]:
    """A function that converts a result to the library of ``array``."""
    if _is_foreign(array):
        exporter: Callable[[Any], Any] = _dlpack().exporter_of(array)
        return exporter
    return lambda result: result


def to_numpy(array: Any) -> Floats:
    """Copy an array to the host: float64 stays float64, every other dtype becomes float32."""
    if hasattr(array, "detach"):  # torch
        array = array.detach().cpu()
        array = array.double() if array.element_size() == 8 else array.float()
    elif hasattr(array, "get") and not isinstance(array, np.ndarray):  # CuPy
        array = array.get()
    array = np.asarray(array)
    floats: Floats = array if array.dtype == np.float64 else array.astype(np.float32)
    return floats


def _dlpack() -> Any:
    # This import loads the engines, so it must not run during `import cudeform`.
    from cudeform.interop import dlpack

    return dlpack


def _is_foreign(array: Any) -> bool:
    shared = hasattr(array, "__dlpack__") or hasattr(array, "__cuda_array_interface__")
    return shared and _known_library(array) is None


def _known_library(array: Any) -> tuple[str, Any] | None:
    """Name and module of an array's library; None if it is not one of ``LIBRARIES``."""
    for base in type(array).__mro__:
        # JAX's arrays are defined in jaxlib, its tracers in jax.
        name = base.__module__.partition(".")[0].replace("jaxlib", "jax")
        if name in LIBRARIES:
            return name, sys.modules[LIBRARIES[name]]
    return None
