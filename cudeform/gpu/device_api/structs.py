"""Structs that kernels take by value: one definition in Python, from which the C text is
generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

# Types of fields, with their names in C. index_t has 32 or 64 bits, acc_t has 4 or 8 bytes.
# Arrays have the name of their length, or a number, behind the name or struct of their elements.
Int = Annotated[int, "int"]
Flag = Annotated[bool, "int"]
Index = Annotated[int, "index_t"]
Real = Annotated[float, "acc_t"]
Strides = Annotated[tuple[int, ...], "Strides"]  # of an (N, C, *axes) array, in elements
Divisor = Annotated[tuple[int, int, int], "Divisor"]  # see ``divisor``

# Arrays with one element per spatial axis.
PerAxis = Annotated[tuple[int, ...], "int", "AXES"]
DivisorPerAxis = Annotated[tuple[tuple[int, int, int], ...], "Divisor", "AXES"]
RealPerAxis = Annotated[tuple[float, ...], "acc_t", "AXES"]

_C_INDEX = {32: "int", 64: "long long"}
_DIVISOR = (("by", np.int32), ("multiplier", np.uint32), ("shift", np.int32))


class Struct:
    """Base class of structs: frozen dataclasses whose fields have the types above, or are structs.

    The class and the C struct have the same name.
    """

    def packed(self, index_bits: int, axes: int, acc_itemsize: int = 4) -> NDArray[Any]:
        """Pack the struct with C's layout, as an array of one element."""
        kind: StructType = type(self)
        struct = np.zeros(1, struct_dtype(kind, index_bits, axes, acc_itemsize))
        struct[0] = _values(self)
        return struct


# A subclass of Struct. It is Any, because mypy considers dataclass types unhashable.
StructType = Any


def c_text(struct: StructType, index_bits: int) -> str:
    """The C definition of a struct, after those of the structs in it; AXES is a macro."""
    texts = [f"typedef {_C_INDEX[index_bits]} index_t;"]
    if depends_on_axes(struct):
        texts.append("struct Strides { index_t n, c, axis[AXES]; };")
    texts.append("struct Divisor { int by; unsigned int multiplier; int shift; };")
    for each in dict.fromkeys(_nested(struct)):
        lines = "\n".join(f"    {_declaration(name, kind)};" for name, kind in _fields(each))
        texts.append(f"struct {each.__name__} {{\n{lines}\n}};")
    return "\n".join(texts) + "\n"


@cache
def depends_on_axes(struct: StructType) -> bool:
    """Whether the layout of a struct depends on the number of spatial axes."""
    kinds = [kind for each in _nested(struct) for _, kind in _fields(each)]
    return any(_length(kind) == "AXES" or _c_name(kind) == "Strides" for kind in kinds)


@lru_cache
def divisor(by: int) -> tuple[int, int, int]:
    """A struct Divisor: ``n // by == 2 * n * multiplier >> 32 + shift`` for all 0 <= n < 2**31."""
    shift = max(0, by - 1).bit_length()
    return by, -(-(2 ** (31 + shift)) // by) if by else 0, shift


@cache
def _fields(struct: StructType) -> tuple[tuple[str, Any], ...]:
    """Names and types of the fields; a type is a struct or ``Annotated``."""
    return tuple(get_type_hints(struct, include_extras=True).items())


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _element(kind: Any) -> Any:
    """A struct or a name in C: the type of a field, or of its elements if it is an array."""
    return kind if _is_struct(kind) else get_args(kind)[1]


def _c_name(kind: Any) -> str:
    element = _element(kind)
    return element.__name__ if _is_struct(element) else str(element)


def _length(kind: Any) -> Any:
    """The length of an array, a number or its name in C; None if a field is no array."""
    return None if _is_struct(kind) or len(get_args(kind)) < 3 else get_args(kind)[2]


def _declaration(name: str, kind: Any) -> str:
    length = _length(kind)
    return f"{_c_name(kind)} {name}{'' if length is None else f'[{length}]'}"


def _nested(struct: StructType) -> Iterator[StructType]:
    """The structs within a struct, innermost first, then the struct itself."""
    for _, kind in _fields(struct):
        if _is_struct(_element(kind)):
            yield from _nested(_element(kind))
    yield struct


def _values(struct: Struct) -> tuple[Any, ...]:
    """The values of the fields for NumPy: structs as tuples, arrays as lists."""
    struct_type: StructType = type(struct)
    return tuple([convert(getattr(struct, name)) for name, convert in _conversions(struct_type)])


@cache
def _conversions(struct: StructType) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Names of the fields, and what makes their values those that NumPy takes."""

    def conversion(kind: Any) -> Callable[[Any], Any]:
        if _is_struct(kind):
            return _values
        if _is_struct(_element(kind)):
            return lambda structs: list(map(_values, structs))
        if _c_name(kind) == "Strides":
            return lambda strides: (*strides[:2], strides[2:])
        return list if _length(kind) is not None else lambda value: value

    return tuple((name, conversion(kind)) for name, kind in _fields(struct))


@cache
def struct_dtype(
    struct: StructType, index_bits: int, axes: int, acc_itemsize: int = 4
) -> np.dtype[Any]:
    """The NumPy dtype of a struct, with C's alignment."""
    index = np.dtype(f"int{index_bits}")
    strides = [("n", index), ("c", index), ("axis", index, (axes,))]
    kinds = {
        "int": np.dtype(np.int32),
        "index_t": index,
        "acc_t": np.dtype(f"f{acc_itemsize}"),
        "Strides": np.dtype(strides, align=True),
        "Divisor": np.dtype(list(_DIVISOR), align=True),
    }

    def field(name: str, kind: Any) -> tuple[Any, ...]:
        element, length = _element(kind), _length(kind)
        if _is_struct(element):
            single = name, struct_dtype(element, index_bits, axes, acc_itemsize)
        else:
            single = name, kinds[element]
        return single if length is None else (*single, (axes if length == "AXES" else length,))

    return np.dtype([field(name, kind) for name, kind in _fields(struct)], align=True)
