"""The arrays of a call and of its gradients, by name; an array in device memory."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Operands:
    """Arrays that go in. What kind of array depends on who holds it; shapes are Geometry's."""

    input: Any
    offset: Any
    weight: Any
    bias: Any = None
    mask: Any = None

    def present(self) -> dict[str, Any]:
        """The arrays that were given, by name of the argument."""
        return {name: array for name, array in vars(self).items() if array is not None}


class Gradients(NamedTuple):
    """Gradients by name of the argument; None where not asked for or where there is no argument."""

    input: Any = None
    offset: Any = None
    weight: Any = None
    bias: Any = None
    mask: Any = None


class Tangents(NamedTuple):
    """A direction in the space of the arguments, by name; None stands for zero.

    Forward mode takes one. In the double backward it is the cotangent of the gradients.
    """

    input: Any = None
    offset: Any = None
    weight: Any = None
    bias: Any = None
    mask: Any = None


class DoubleGradients(NamedTuple):
    """Gradients of a function of the gradients; the bias does not influence any of them."""

    grad_output: Any = None
    input: Any = None
    offset: Any = None
    weight: Any = None
    mask: Any = None
