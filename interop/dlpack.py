"""The door for any array on the CPU that speaks DLPack; results are of the producer's library."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from cudeform.geometry import Geometry
from cudeform.operands import DoubleGradients, Gradients, Operands

from . import numpy as numpy_door


def dtype_name(array: Any) -> str:
    """Name of the dtype, as NumPy knows it."""
    return numpy_door.dtype_name(_borrow(array))


def device_of(array: Any) -> Any:
    """DLPack's (device type, device id)."""
    return tuple(int(part) for part in array.__dlpack_device__())


def forward(operands: Operands, geometry: Geometry) -> Any:
    """Deformable convolution: a new array of the producer's library."""
    give_back = _from_dlpack(operands.input)
    return give_back(numpy_door.forward(_borrowed(operands), geometry))


def backward(
    operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
) -> Gradients:
    """Gradients: new arrays of the producer's library."""
    give_back = _from_dlpack(operands.input)
    grads = numpy_door.backward(_borrowed(operands), geometry, _borrow(grad_output), needs)
    return Gradients(*(None if grad is None else give_back(grad) for grad in grads))


def jvp(operands: Operands, geometry: Geometry, tangents: Gradients) -> Any:
    """Tangent of the output: a new array of the producer's library."""
    give_back = _from_dlpack(operands.input)
    return give_back(numpy_door.jvp(_borrowed(operands), geometry, _borrow_all(tangents)))


def double_backward(
    operands: Operands,
    geometry: Geometry,
    grad_output: Any,
    cotangents: Gradients,
    needs: frozenset[str],
) -> DoubleGradients:
    """Gradients of the gradients: new arrays of the producer's library."""
    give_back = _from_dlpack(operands.input)
    results = numpy_door.double_backward(
        _borrowed(operands), geometry, _borrow(grad_output), _borrow_all(cotangents), needs
    )
    return DoubleGradients(*(None if grad is None else give_back(grad) for grad in results))


def _borrow_all(arrays: Gradients) -> Gradients:
    return Gradients(*(None if array is None else _borrow(array) for array in arrays))


def _borrowed(operands: Operands) -> Operands:
    return replace(operands, **{n: _borrow(array) for n, array in operands.present().items()})


def _borrow(array: Any) -> Any:
    """The array as a NumPy array over the same memory."""
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError) as error:
        raise TypeError(
            f"NumPy cannot read this array of {type(array).__module__} through DLPack: {error}"
        ) from error


def _from_dlpack(array: Any) -> Any:
    """``from_dlpack`` of the library that made ``array``."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__().from_dlpack
    library = type(array).__module__.partition(".")[0]
    consumer = getattr(sys.modules.get(library), "from_dlpack", None)
    if consumer is None:
        raise TypeError(
            f"results cannot go back to {library}: it has neither __array_namespace__ nor a "
            "function from_dlpack; call numpy.from_dlpack on the arguments and pass the results"
        )
    return consumer
