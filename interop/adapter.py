"""The doors: how arrays of a library come in and go out.

* A library is recognised by the type of its arrays; it is never imported to find out, since an
  array of a library that was not imported cannot exist.
* All arrays of a call belong to one library; results are of that library.
* A door hands its arrays to the engine as they are and allocates results in its own library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry

# Modules of this folder, by the type of the arrays they take: its library and its name.
ADAPTERS = {
    ("numpy", "ndarray"): "numpy",
    ("cupy", "ndarray"): "cupy",
    ("jaxlib", "ArrayImpl"): "jax",
    ("jax", "Tracer"): "jax",
    ("torch", "Tensor"): "torch",
}

# Arrays by the name of their type that hold more than numbers, and what to do.
REFUSED = {"MaskedArray": "its mask would be ignored; call .filled(0), or what it shall be"}


class Adapter(Protocol):
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

    def jvp(self, operands: Operands, geometry: Geometry, tangents: Tangents) -> Any:
        """Tangent of the output: a new array of the door's library."""

    def double_backward(
        self,
        operands: Operands,
        geometry: Geometry,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """Gradients of the gradients that are needed: new arrays of the door's library."""


def adapter_of(arrays: Mapping[str, Any]) -> Adapter:
    """The door that all ``arrays``, by name of the argument, go through.

    Raises:
        TypeError: something that is no array, or arrays of different libraries.
    """
    kinds = {name: _kind(name, array) for name, array in arrays.items()}
    expected = kinds["input"]
    for name, kind in kinds.items():
        if kind is not expected and kind != expected:
            raise TypeError(
                f"{name} must be an array of the same library as input, {expected.library}, got an "
                f"array of {kind.library}; convert one of them, without a copy by from_dlpack"
            )
    if expected.door == "dlpack":
        loan: Adapter = _import("dlpack").Loan()
        return loan
    door: Adapter = _load(expected.door)
    return door


@dataclass(frozen=True)
class Kind:
    """A kind of array: the library it belongs to and the door it goes through."""

    library: str
    door: str


def _kind(name: str, array: Any) -> Kind:
    kind = _kind_of_type(type(array))
    if kind is None:
        raise TypeError(f"{name} must be {_what_is_taken(type(array))}")
    return kind


def _what_is_taken(instead_of: type) -> str:
    if instead_of.__name__ in REFUSED:
        return f"a plain array, got {instead_of.__name__}: {REFUSED[instead_of.__name__]}"
    return (
        "an array of NumPy, CuPy, PyTorch, JAX or another library that has __dlpack__, got "
        f"{instead_of.__name__}; numpy.asarray makes one of a list or a number"
    )


_kinds: dict[type, Kind | None] = {}


def _kind_of_type(of: type) -> Kind | None:
    """Kind of the arrays of a type, found once; None if they are no arrays."""
    if of not in _kinds:
        _kinds[of] = _find_kind(of)
    return _kinds[of]


def _find_kind(of: type) -> Kind | None:
    for base in of.__mro__:
        if base.__name__ in REFUSED:
            return None
        library = base.__module__.partition(".")[0]
        door = ADAPTERS.get((library, base.__name__))
        if door is not None:
            return Kind(door, door)  # such a door has the name of its library
    if hasattr(of, "__dlpack__") or hasattr(of, "__cuda_array_interface__"):
        return Kind(of.__module__.partition(".")[0], "dlpack")
    return None


def _load(door: str) -> Any:
    if door == "torch":
        # torch.compile looks into this function: it follows an import, but neither what is cached
        # nor import_module.
        from . import torch

        return torch
    return _import(door)


@cache
def _import(door: str) -> Any:
    return import_module(f"cudeform.interop.{door}")
