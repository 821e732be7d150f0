"""Named tuples for the operands, the gradients and the tangents of a call."""

from __future__ import annotations

from typing import Any, NamedTuple


class DeviceArray(NamedTuple):
    """An array in device memory.

    Attributes:
        pointer: address of the first element.
        shape: size of each axis.
        strides: stride of each axis in elements; 0 if broadcast, negative if reversed.
        dtype: name of the dtype: float16, bfloat16, float32 or float64.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class Operands(NamedTuple):
    """The arrays that a call reads, by their names in the engine.

    An operator of the table says which of them it has, and what users call them. Adapters receive
    arrays of the user's library. The engine receives NumPy arrays or ``DeviceArray``.
    """

    input: Any
    offset: Any
    weight: Any = None
    bias: Any = None
    mask: Any = None

    def present(self) -> dict[str, Any]:
        """The arrays by name, without those that are None."""
        arrays = {"input": self.input, "offset": self.offset}
        if self.weight is not None:
            arrays["weight"] = self.weight
        if self.bias is not None:
            arrays["bias"] = self.bias
        if self.mask is not None:
            arrays["mask"] = self.mask
        return arrays


class Gradients(NamedTuple):
    """Gradients by argument name; None if not requested or if the argument is absent."""

    input: Any = None
    offset: Any = None
    weight: Any = None
    bias: Any = None
    mask: Any = None


class Tangents(NamedTuple):
    """Tangents by argument name; None means zero.

    In forward mode these are tangents of the arguments. In the double backward they are cotangents
    of the arguments' gradients. Both have the shapes of the arguments.
    """

    input: Any = None
    offset: Any = None
    weight: Any = None
    bias: Any = None
    mask: Any = None

    def present(self) -> dict[str, Any]:
        """The tangents that are not None, by their names in error messages."""
        return {
            f"tangent of {name}": array
            for name, array in zip(self._fields, self, strict=True)
            if array is not None
        }


class DoubleGradients(NamedTuple):
    """Results of the double backward: gradients of a function of the first gradients.

    The first gradients do not depend on the bias, so there is no gradient of the bias.
    """

    grad_output: Any = None
    input: Any = None
    offset: Any = None
    weight: Any = None
    mask: Any = None


# The types of gradients, for users, of the operators that sum samples without a filter. Users pass
# tangents and cotangents of these operators in the same types.


class AttentionGradients(NamedTuple):
    """Gradients of ``ms_deform_attn``, or tangents of its arguments; None where there is none."""

    value: Any = None
    sampling_locations: Any = None
    attention_weights: Any = None


class AttentionDoubleGradients(NamedTuple):
    """Gradients of a function of the gradients of ``ms_deform_attn``."""

    grad_output: Any = None
    value: Any = None
    sampling_locations: Any = None
    attention_weights: Any = None


class DCNv3Gradients(NamedTuple):
    """Gradients of ``dcnv3``, or tangents of its arguments; None where there is none."""

    input: Any = None
    offset: Any = None
    mask: Any = None


class DCNv3DoubleGradients(NamedTuple):
    """Gradients of a function of the gradients of ``dcnv3``."""

    grad_output: Any = None
    input: Any = None
    offset: Any = None
    mask: Any = None


class DCNv4Gradients(NamedTuple):
    """Gradients of ``dcnv4``, or tangents of its arguments; None where there is none."""

    input: Any = None
    offset_mask: Any = None


class DCNv4DoubleGradients(NamedTuple):
    """Gradients of a function of the gradients of ``dcnv4``."""

    grad_output: Any = None
    input: Any = None
    offset_mask: Any = None
