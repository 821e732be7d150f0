"""The door for arrays of any other library: what has DLPack or ``__cuda_array_interface__``.

Arguments are borrowed, as NumPy arrays on the CPU and as CuPy arrays on a GPU, over the same
memory; where a producer cannot lend, it is asked for a copy. Results go back through
``from_dlpack`` of the library that made the input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from cudeform import engine
from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry

from . import cupy as cupy_door
from . import numpy as numpy_door
from .dlpack_bfloat16 import borrow_bfloat16, lend_bfloat16

CUDA, CUDA_MANAGED = 2, 13  # DLPack's numbers of the kinds of device that are CuPy's


Named = TypeVar("Named", Gradients, Tangents, DoubleGradients)


class Loan:
    """The door for one call: each of its arrays is borrowed once."""

    def __init__(self) -> None:
        """Begin with nothing borrowed."""
        self.borrowed: dict[int, Any] = {}

    def dtype_name(self, array: Any) -> str:
        """Name of the dtype, as NumPy or CuPy knows it."""
        borrowed = self._borrow(array)
        return str(_door_of(borrowed).dtype_name(borrowed))

    def device_of(self, array: Any) -> Any:
        """DLPack's (device type, device id), or CuPy's name of the device."""
        if hasattr(array, "__dlpack_device__"):
            return tuple(int(part) for part in array.__dlpack_device__())
        return cupy_door.device_of(self._borrow(array))

    def forward(self, operands: Operands, geometry: Geometry) -> Any:
        """Deformable convolution: a new array of the producer's library."""
        give_back, door, mine = self._enter(operands)
        return give_back(door.forward(mine, geometry))

    def backward(
        self, operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
    ) -> Gradients:
        """Gradients: new arrays of the producer's library."""
        give_back, door, mine = self._enter(operands)
        grads: Gradients = door.backward(mine, geometry, self._borrow(grad_output), needs)
        return _each(give_back, grads)

    def jvp(self, operands: Operands, geometry: Geometry, tangents: Tangents) -> Any:
        """Tangent of the output: a new array of the producer's library."""
        give_back, door, mine = self._enter(operands)
        return give_back(door.jvp(mine, geometry, _each(self._borrow, tangents)))

    def double_backward(
        self,
        operands: Operands,
        geometry: Geometry,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """Gradients of the gradients: new arrays of the producer's library."""
        give_back, door, mine = self._enter(operands)
        extra = self._borrow(grad_output), _each(self._borrow, cotangents)
        results: DoubleGradients = door.double_backward(mine, geometry, *extra, needs)
        return _each(give_back, results)

    def _enter(self, operands: Operands) -> tuple[Callable[[Any], Any], Any, Operands]:
        """The way back, the door of what was borrowed, and the operands for it."""
        give_back = way_back(operands.input)
        borrowed = {name: self._borrow(array) for name, array in operands.present().items()}
        return give_back, _door_of(borrowed["input"]), replace(operands, **borrowed)

    def _borrow(self, array: Any) -> Any:
        if id(array) not in self.borrowed:
            self.borrowed[id(array)] = borrow(array)
        return self.borrowed[id(array)]


def _each(function: Callable[[Any], Any], arrays: Named) -> Named:
    """The arrays with a function applied to all that are not None."""
    return type(arrays)(*(None if array is None else function(array) for array in arrays))


def _door_of(borrowed: Any) -> Any:
    return numpy_door if isinstance(borrowed, np.ndarray) else cupy_door


def borrow(array: Any) -> Any:
    """The array as a NumPy or CuPy array, over the same memory if it can be lent."""
    kind, index = array.__dlpack_device__() if hasattr(array, "__dlpack__") else (CUDA, None)
    on_gpu = int(kind) in (CUDA, CUDA_MANAGED)
    if on_gpu:
        engine.gpu_device(index or 0, 0)  # says what is missing
    try:
        return _by_cupy(array, index) if on_gpu else _by_numpy(array)
    except (BufferError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"{'CuPy' if on_gpu else 'NumPy'} cannot read this array of {type(array).__module__} "
            f"through DLPack: {error}"
        ) from error


def _by_numpy(array: Any) -> Any:
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError):
        # NumPy has no bfloat16, and a producer that cannot say "read-only" may not lend at all.
        for another in (borrow_bfloat16, _copied):
            with suppress(BufferError, RuntimeError, TypeError):
                return another(array)
        raise


def _copied(array: Any) -> Any:
    return np.from_dlpack(array, copy=True)


def _by_cupy(array: Any, index: int | None) -> Any:
    import cupy

    if index is None:
        return cupy.asarray(array)
    with cupy.cuda.Device(index):
        return cupy.from_dlpack(array)


def way_back(array: Any) -> Callable[[Any], Any]:
    """A function that makes an array of the library of ``array`` of one that was computed."""
    consumer = _from_dlpack(array)

    def give_back(result: Any) -> Any:
        lent = lend_bfloat16(result) if numpy_door.is_bfloat16(result) else result
        return consumer(lent)

    return give_back


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
