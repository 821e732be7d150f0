"""The protocol of adapters, and the choice of the adapter for the arrays of a call.

An adapter is the code for arrays of one library: it checks them, allocates results in their own
library and hands both to the engine without a copy.

* A library is recognised by the type of its arrays. It is never imported to find out: an array of a
  library that is not imported cannot exist.
* All arrays of a call belong to one library, and the results belong to the same. There are two
  exceptions: NumPy arrays in a call with JAX arrays are constants, as in JAX's own functions, and
  NumPy and CuPy arrays may be mixed with Dask arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.spec import Operator

# Modules of this folder, by top-level package and class name of the arrays that they take. The
# adapter of each module is its attribute ``ADAPTER``.
ADAPTERS = {
    ("numpy", "ndarray"): "numpy",
    ("cupy", "ndarray"): "cupy",
    ("jaxlib", "ArrayImpl"): "jax",
    ("jax", "Tracer"): "jax",
    ("torch", "Tensor"): "torch",
    ("tensorflow", "Tensor"): "tensorflow",
    ("dask", "Array"): "dask",
}

# For each library, the other libraries whose arrays may be mixed with its own.
CONSTANTS = {"jax": ("numpy",), "dask": ("numpy", "cupy")}

# Types that are refused, by package and class name, each with the remedy.
REFUSED = {
    ("numpy", "MaskedArray"): "its mask would be ignored; call .filled(0), or any other fill value",
    ("keras", "KerasTensor"): "use cudeform.keras.DeformConv2D in a model of Keras",
    ("tensorflow", "RaggedTensor"): "call .to_tensor(), which adds zeros at the end of short rows",
    ("tensorflow", "SparseTensor"): "call tensorflow.sparse.to_dense",
    ("tensorflow", "IndexedSlices"): "call tensorflow.convert_to_tensor",
    ("xarray", "DataArray"): "pass its .data, or call xarray.apply_ufunc with dask='allowed'",
    ("zarr", "Array"): "dask.array.from_zarr makes a lazy array of it, [...] reads it",
    ("dask", "Delayed"): "dask.array.from_delayed makes a lazy array of it",
}


class Adapter(Protocol):
    """The operators and their derivatives on arrays of one library.

    An adapter gets the arrays as the caller passed them, all of one library, and checks settings,
    shapes, dtypes and devices. A library that traces calls needs these checks inside the trace, so
    they belong to the adapter; ``CheckedAdapter`` makes them for all other libraries. Results are
    new arrays of the same library.
    """

    def forward(self, operator: Operator, operands: Operands, settings: Any) -> Any:
        """The output."""

    def backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: Any,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``."""

    def jvp(self, operator: Operator, operands: Operands, settings: Any, tangents: Tangents) -> Any:
        """The tangent of the output."""

    def double_backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: Any,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of ``sum(cotangents * backward(...))`` named in ``needs``."""


def adapter_of(arrays: Mapping[str, Any]) -> Adapter:
    """The adapter for the arrays of a call, given by argument name; ``input`` is the first.

    Raises:
        TypeError: an argument is no array, or the arrays belong to libraries that do not mix.
    """
    expected: Kind | None = None
    for name, array in arrays.items():
        kind = _kind(name, array)
        if expected is None:
            first, expected = name, kind
        elif kind is not expected and kind != expected:
            if expected.library in CONSTANTS.get(kind.library, ()):
                first, expected = name, kind
            elif kind.library not in CONSTANTS.get(expected.library, ()):
                raise TypeError(_different_libraries(name, kind, first, expected))
    assert expected is not None
    return _load(expected.module)


@dataclass(frozen=True)
class Kind:
    """The library that arrays belong to, and the module of this folder that takes them."""

    library: str
    module: str


def _kind(name: str, array: Any) -> Kind:
    kind = _kind_of_type(type(array))
    if kind is None:
        raise TypeError(f"{name} must be {_expected_instead_of(type(array))}")
    return kind


# For each library, the function that converts arrays of the libraries below it to its own. An error
# proposes to convert to the upper one of two libraries. Dask is at the top, because a Dask array
# may not fit into memory; JAX comes next, because its tracers cannot be converted.
CONVERTERS = {
    "dask": "numpy.asarray, on a GPU cupy.asarray",
    "jax": "jax.numpy.from_dlpack",
    "torch": "torch.from_dlpack",
    "tensorflow": "tensorflow.convert_to_tensor",
    "cupy": "cupy.from_dlpack",
    "numpy": "numpy.from_dlpack, on a GPU cupy.from_dlpack",
}

# The same for NumPy arrays, which may be read-only, or must be copied to a GPU.
CONVERTERS_OF_NUMPY = {
    "torch": "torch.as_tensor",
    "tensorflow": "tensorflow.convert_to_tensor",
    "cupy": "cupy.asarray",
}


def _different_libraries(name: str, kind: Kind, first: str, expected: Kind) -> str:
    libraries = [expected.library, kind.library]
    target = next((each for each in CONVERTERS if each in libraries), None)
    remedy = "convert them to arrays of one library"
    if target is not None:
        libraries.remove(target)
        (source,) = libraries
        converter = (CONVERTERS_OF_NUMPY if source == "numpy" else CONVERTERS)[target]
        remedy = f"convert the arrays of {source} by {converter}"
    return (
        f"{name} must be an array of the same library as {first}, {expected.library}, got an array "
        f"of {kind.library}; {remedy}"
    )


def _expected_instead_of(got: type) -> str:
    for base in got.__mro__:
        if _name_of(base) in REFUSED:
            return f"a plain array, got {got.__name__}: {REFUSED[_name_of(base)]}"
    return (
        "an array of NumPy, CuPy, PyTorch, JAX, TensorFlow, Dask or another library that has "
        f"__dlpack__, got {got.__name__}; numpy.asarray makes one of a list or a number"
    )


_kinds: dict[type, Kind | None] = {}


def _kind_of_type(array_type: type) -> Kind | None:
    """The kind of arrays of a type, looked up once per type; None if the type is no array."""
    if array_type not in _kinds:
        _kinds[array_type] = _find_kind(array_type)
    return _kinds[array_type]


# torch.compile calls this function instead of tracing it, as torch.compiler.assume_constant_result
# would ask for. A trace would depend on the contents of the dict, and the second call compile anew.
_kind_of_type._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _find_kind(array_type: type) -> Kind | None:
    for base in array_type.__mro__:
        if _name_of(base) in REFUSED:
            return None
        module = ADAPTERS.get(_name_of(base))
        if module is not None:
            return Kind(module, module)  # these modules have the name of their library
    if hasattr(array_type, "__dlpack__") or hasattr(array_type, "__cuda_array_interface__"):
        return Kind(array_type.__module__.partition(".")[0], "dlpack")
    return None


def _name_of(array_type: type) -> tuple[str, str]:
    """Top-level package and name of a class."""
    return array_type.__module__.partition(".")[0], array_type.__name__


def _load(module: str) -> Adapter:
    if module == "torch":
        # torch.compile traces this function: it follows an import statement, but neither a cached
        # function nor import_module. A relative import takes four times as long.
        from cudeform.interop.torch import ADAPTER

        return ADAPTER
    return _import(module)


@cache
def _import(module: str) -> Adapter:
    adapter: Adapter = import_module(f"cudeform.interop.{module}").ADAPTER
    return adapter
