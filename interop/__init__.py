"""The doors: how arrays of a library come in and go out.

* A library is recognised by the type of its arrays; it is never imported to find out, since an
  array of a library that was not imported cannot exist.
* All arrays of a call belong to one library; results are of that library.
* A door hands its arrays to the engine as they are and allocates results in its own library.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from cudeform.geometry import Geometry
from cudeform.operands import Gradients, Operands

# Modules of this folder, by the library whose arrays they take.
DOORS = {"numpy": "numpy"}


class Door(Protocol):
    """What a module of this folder provides."""

    def dtype_name(self, array: Any) -> str:
        """Name of an array's dtype, such as "float32"."""

    def device_of(self, array: Any) -> Any:
        """Where an array lives: anything that compares equal for equal places."""

    def forward(self, operands: Operands, geometry: Geometry) -> Any:
        """Deformable convolution: a new array of the door's library."""

    def backward(
        self, operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
    ) -> Gradients:
        """Gradients that are needed: new arrays of the door's library."""


def door_of(arrays: Mapping[str, Any]) -> Door:
    """The door that all ``arrays``, by name of the argument, go through.

    Raises:
        TypeError: something that is no array, or arrays of different libraries.
    """
    libraries = {name: library_of(name, array) for name, array in arrays.items()}
    expected = libraries["input"]
    for name, library in libraries.items():
        if library != expected:
            raise TypeError(
                f"{name} must be an array of the same library as input, {expected}, "
                f"got an array of {library}; convert one of them, without a copy by from_dlpack"
            )
    door: Door = _load(DOORS.get(expected, "dlpack"))
    return door


def library_of(name: str, array: Any) -> str:
    """Top-level module of the library that ``array`` belongs to."""
    library = _library(type(array))
    if library is None:
        raise TypeError(
            f"{name} must be an array of NumPy, CuPy, PyTorch, JAX or another library that has "
            f"__dlpack__, got {type(array).__name__}; numpy.asarray makes one of a list or a number"
        )
    return library


_libraries: dict[type, str | None] = {}


def _library(kind: type) -> str | None:
    """Library of a type of arrays, looked up once; None if it is no array."""
    if kind not in _libraries:
        _libraries[kind] = _find_library(kind)
    return _libraries[kind]


def _find_library(kind: type) -> str | None:
    for base in kind.__mro__:
        library = base.__module__.partition(".")[0]
        if library in DOORS and hasattr(base, "shape"):
            return library
    return kind.__module__.partition(".")[0] if hasattr(kind, "__dlpack__") else None


@cache
def _load(door: str) -> Any:
    return import_module(f"cudeform.interop.{door}")
