"""The door for NumPy arrays, ml_dtypes.bfloat16 included."""

from __future__ import annotations

from typing import Any

import numpy as np

from cudeform import engine
from cudeform.geometry import Geometry
from cudeform.operands import Gradients, Operands


def dtype_name(array: Any) -> str:
    """Name of the dtype, as Geometry knows it."""
    # A byte-swapped float32 has the name float32 too, but no kernel reads it.
    return str(array.dtype.name if array.dtype.isnative else array.dtype.str)


def device_of(array: Any) -> str:
    """Where the array lives."""
    return "cpu"


def forward(operands: Operands, geometry: Geometry) -> Any:
    """Deformable convolution: a new array."""
    output = np.empty(geometry.output_shape, operands.input.dtype)
    engine.forward(operands, geometry, output)
    return output


def backward(
    operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
) -> Gradients:
    """Gradients: new arrays."""
    grads = Gradients(
        **{
            name: np.empty(array.shape, array.dtype)
            for name, array in operands.present().items()
            if name in needs
        }
    )
    engine.backward(operands, geometry, grad_output, grads)
    return grads
