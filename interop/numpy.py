"""The door for NumPy arrays, ml_dtypes.bfloat16 included."""

from __future__ import annotations

from typing import Any

import numpy as np

from cudeform import engine
from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.options import current


def dtype_name(array: Any) -> str:
    """Name of the dtype, as Geometry knows it."""
    # A byte-swapped float32 has the name float32 too, but no kernel reads it.
    return str(array.dtype.name if array.dtype.isnative else array.dtype.str)


def is_bfloat16(array: Any) -> bool:
    """Whether an array is a NumPy array of ml_dtypes.bfloat16."""
    return isinstance(array, np.ndarray) and array.dtype.name == "bfloat16"


def device_of(array: Any) -> str:
    """Where the array lives."""
    return "cpu"


def forward(operands: Operands, geometry: Geometry) -> Any:
    """Deformable convolution: a new array."""
    output = np.empty(geometry.output_shape, operands.input.dtype)
    engine.forward(_plain(operands), geometry, current(), output)
    return output


def backward(
    operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
) -> Gradients:
    """Gradients: new arrays."""
    grads = Gradients(**_like(operands, needs))
    engine.backward(_plain(operands), geometry, current(), np.asarray(grad_output), grads)
    return grads


def jvp(operands: Operands, geometry: Geometry, tangents: Tangents) -> Any:
    """Tangent of the output: a new array."""
    result = np.empty(geometry.output_shape, operands.input.dtype)
    engine.jvp(_plain(operands), geometry, current(), _plain_tangents(tangents), result)
    return result


def double_backward(
    operands: Operands,
    geometry: Geometry,
    grad_output: Any,
    cotangents: Tangents,
    needs: frozenset[str],
) -> DoubleGradients:
    """Gradients of the gradients: new arrays."""
    results = DoubleGradients(
        grad_output=np.empty(geometry.output_shape, grad_output.dtype)
        if "grad_output" in needs
        else None,
        **_like(operands, needs),
    )
    given = np.asarray(grad_output), _plain_tangents(cotangents)
    engine.double_backward(_plain(operands), geometry, current(), *given, results)
    return results


def _plain(operands: Operands) -> Operands:
    """The operands without what subclasses of NumPy's array make of indices and operators."""
    return Operands(**{name: np.asarray(array) for name, array in operands.present().items()})


def _plain_tangents(tangents: Tangents) -> Tangents:
    return Tangents(*(None if array is None else np.asarray(array) for array in tangents))


def _like(operands: Operands, needs: frozenset[str]) -> dict[str, Any]:
    """New arrays for the gradients of the operands that are needed, by name."""
    return {
        name: np.empty(array.shape, array.dtype)
        for name, array in operands.present().items()
        if name in needs
    }
