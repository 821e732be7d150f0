"""The adapter for arrays of any other library with DLPack or ``__cuda_array_interface__``.

Arrays are imported without a copy, as NumPy arrays on the CPU and as CuPy arrays on a GPU, and
passed to NumPy's or CuPy's adapter. A producer that cannot share its memory is asked for a copy.
Results are exported through ``from_dlpack`` of the library that made the input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from cudeform import engine
from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import check_devices
from cudeform.spec import Operator

from . import cupy as cupy_module
from . import numpy as numpy_module
from .adapter import Adapter
from .dlpack_bfloat16 import export_bfloat16, import_bfloat16

CUDA, CUDA_MANAGED = 2, 13  # DLPack's device types that CuPy reads

Exporter = Callable[[Any], Any]
Named = TypeVar("Named", Gradients, Tangents, DoubleGradients)


class DlpackAdapter:
    """Imports the arrays of a call, calls NumPy's or CuPy's adapter, exports the results."""

    def forward(self, operator: Operator, operands: Operands, settings: Any) -> Any:
        """The output."""
        adapter, imported, export = _imported(operator, operands, {})
        return export(adapter.forward(operator, imported, settings))

    def backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: Any,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``."""
        adapter, imported, export = _imported(operator, operands, {"grad_output": grad_output})
        grads = adapter.backward(operator, imported, settings, import_array(grad_output), needs)
        return _each(export, grads)

    def jvp(self, operator: Operator, operands: Operands, settings: Any, tangents: Tangents) -> Any:
        """The tangent of the output."""
        adapter, imported, export = _imported(operator, operands, tangents.present())
        return export(adapter.jvp(operator, imported, settings, _each(import_array, tangents)))

    def double_backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: Any,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of the gradients named in ``needs``."""
        others = cotangents.present() | {"grad_output": grad_output}
        adapter, imported, export = _imported(operator, operands, others)
        directions = import_array(grad_output), _each(import_array, cotangents)
        return _each(
            export, adapter.double_backward(operator, imported, settings, *directions, needs)
        )


ADAPTER = DlpackAdapter()


def _imported(
    operator: Operator, operands: Operands, others: Mapping[str, Any]
) -> tuple[Adapter, Operands, Exporter]:
    """Import the operands; return their adapter, the imported arrays, and the exporter of results.

    Devices are checked here, because NumPy's adapter assumes that all arrays are on the CPU.
    """
    arrays = operands.present()
    named = operator.named({**arrays, **others})
    check_devices({name: _device_of(array) for name, array in named.items()})
    imported = Operands(**{name: import_array(array) for name, array in arrays.items()})
    on_cpu = isinstance(imported.input, np.ndarray)
    adapter = numpy_module.ADAPTER if on_cpu else cupy_module.ADAPTER
    return adapter, imported, exporter_of(operands.input)


def _each(function: Callable[[Any], Any], arrays: Named) -> Named:
    return type(arrays)(*(None if array is None else function(array) for array in arrays))


def _device_of(array: Any) -> Any:
    """DLPack's (device type, device id), or the device in the notation of CuPy's adapter."""
    if hasattr(array, "__dlpack_device__"):
        return tuple(int(part) for part in array.__dlpack_device__())
    return cupy_module.ADAPTER.device_of(import_array(array))


def import_array(array: Any) -> Any:
    """Import as a NumPy or CuPy array, without a copy if the producer can share its memory.

    Raises:
        TypeError: neither library can read it.
        RuntimeError: the array is on a GPU, and CuPy or a driver is missing.
    """
    kind, index = array.__dlpack_device__() if hasattr(array, "__dlpack__") else (CUDA, None)
    on_gpu = int(kind) in (CUDA, CUDA_MANAGED)
    if on_gpu:
        engine.gpu_device(index or 0, 0)  # raises the error that says what is missing
    try:
        return _import_by_cupy(array, index) if on_gpu else _import_by_numpy(array)
    except (BufferError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"{'CuPy' if on_gpu else 'NumPy'} cannot read this array of {type(array).__module__} "
            f"through DLPack: {error}"
        ) from error


def _import_by_numpy(array: Any) -> Any:
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError):
        # NumPy has no bfloat16, and a producer without a "read-only" flag may refuse to share.
        for import_otherwise in (import_bfloat16, _copied):
            with suppress(BufferError, RuntimeError, TypeError):
                return import_otherwise(array)
        raise


def _copied(array: Any) -> Any:
    return np.from_dlpack(array, copy=True)


def _import_by_cupy(array: Any, index: int | None) -> Any:
    import cupy

    if index is None:
        return cupy.asarray(array)
    with cupy.cuda.Device(index):
        return cupy.from_dlpack(array)


def exporter_of(array: Any) -> Exporter:
    """A function that exports a computed array to the library of ``array``.

    Raises:
        TypeError: the library has no ``from_dlpack``.
    """
    from_dlpack = _from_dlpack(array)

    def export(result: Any) -> Any:
        if numpy_module.is_bfloat16(result):
            result = export_bfloat16(result)
        return from_dlpack(result)

    return export


def _from_dlpack(array: Any) -> Any:
    """``from_dlpack`` of the library that made ``array``."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__().from_dlpack
    parts = type(array).__module__.split(".")
    for length in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:length]))
        if hasattr(module, "from_dlpack"):
            return module.from_dlpack  # type: ignore[union-attr]
    raise TypeError(
        f"results cannot go back to {parts[0]}: it has neither __array_namespace__ nor a function "
        "from_dlpack; call numpy.from_dlpack, on a GPU cupy.asarray, on the arguments and pass the "
        "results"
    )
