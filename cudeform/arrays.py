"""The arrays of a call, of its gradients and of its tangents, by name of the argument."""

from __future__ import annotations

from typing import Any, NamedTuple


class DeviceArray(NamedTuple):
    """An array in device memory.

    Attributes:
        pointer: address of the first element.
        shape: sizes.
        strides: distances in elements; 0 where broadcast, negative where reversed.
        dtype: name, float16, bfloat16, float32 or float64.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class Operands(NamedTuple):
    """The arrays that a call reads; ``Geometry`` has their shapes.

    Between user and adapter they are arrays of the user's library, in the engine NumPy arrays or
    ``DeviceArray``.
    """

    input: Any
    offset: Any
    weight: Any
    bias: Any = None
    mask: Any = None

    def present(self) -> dict[str, Any]:
        """The arrays by name of the argument, without a bias or a mask that is None."""
        arrays = {"input": self.input, "offset": self.offset, "weight": self.weight}
        if self.bias is not None:
            arrays["bias"] = self.bias
        if self.mask is not None:
            arrays["mask"] = self.mask
        return arrays


class Gradients(NamedTuple):
    """Gradients by name of the argument; None where not needed or where there is no argument."""

    input: Any = None
    offset: Any = None
    weight: Any = None
    bias: Any = None
    mask: Any = None


class Tangents(NamedTuple):
    """A direction in the space of the arguments, by name of the argument; None stands for zero.

    Forward mode takes tangents of the arguments, the double backward takes cotangents of their
    gradients: both have the arguments' shapes.
    """

    input: Any = None
    offset: Any = None
    weight: Any = None
    bias: Any = None
    mask: Any = None

    def present(self) -> dict[str, Any]:
        """The tangents that are not None, by the name that error texts call them."""
        return {
            f"tangent of {name}": array
            for name, array in zip(self._fields, self, strict=True)
            if array is not None
        }


class DoubleGradients(NamedTuple):
    """Gradients of a function of the gradients, which do not depend on the bias."""

    grad_output: Any = None
    input: Any = None
    offset: Any = None
    weight: Any = None
    mask: Any = None
