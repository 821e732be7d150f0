"""Structs that kernels take by value: one definition, written out in C and filled by NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

# Types of fields, with their names in C. index_t is 32 or 64 bits wide.
Int = Annotated[int, "int"]
Flag = Annotated[bool, "int"]
Index = Annotated[int, "index_t"]
Strides = Annotated[tuple[int, ...], "Strides"]  # of an (N, C, *axes) array, in elements
Divisor = Annotated[tuple[int, int, int], "Divisor"]  # see ``divisor``

# Arrays with an element for each spatial axis.
PerAxis = Annotated[tuple[int, ...], "int", "AXES"]
DivisorPerAxis = Annotated[tuple[tuple[int, int, int], ...], "Divisor", "AXES"]

_C_INDEX = {32: "int", 64: "long long"}
_DIVISOR = (("by", np.int32), ("multiplier", np.uint32), ("shift", np.int32))


class Struct:
    """Base of structs: frozen dataclasses whose fields have the types above, or are structs.

    The name in C is that of the class.
    """

    def packed(self, index_bits: int, axes: int) -> NDArray[Any]:
        """The struct as C lays it out for a number of spatial axes, an array of one element."""
        kind: StructType = type(self)
        struct = np.zeros(1, struct_dtype(kind, index_bits, axes))
        struct[0] = _values(self)
        return struct


# A subclass of Struct; mypy takes classes of dataclasses for unhashable, so it cannot be told.
StructType = Any


def c_text(struct: StructType, index_bits: int) -> str:
    """The definition of a struct in C, after those of all types in it; AXES is a macro."""
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
    return any(_is_array(kind) or _c_name(kind) == "Strides" for kind in kinds)


@lru_cache
def divisor(by: int) -> tuple[int, int, int]:
    """A struct Divisor: ``n // by == 2 * n * multiplier >> 32 + shift`` for all 0 <= n < 2**31."""
    shift = max(0, by - 1).bit_length()
    return by, -(-(2 ** (31 + shift)) // by) if by else 0, shift


@cache
def _fields(struct: StructType) -> tuple[tuple[str, Any], ...]:
    """Names and types; a type is a struct or ``Annotated``."""
    return tuple(get_type_hints(struct, include_extras=True).items())


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _c_name(kind: Any) -> str:
    return kind.__name__ if _is_struct(kind) else str(get_args(kind)[1])


def _is_array(kind: Any) -> bool:
    """Whether a field has an element for each axis."""
    return not _is_struct(kind) and len(get_args(kind)) > 2


def _declaration(name: str, kind: Any) -> str:
    return f"{_c_name(kind)} {name}{'[AXES]' if _is_array(kind) else ''}"


def _nested(struct: StructType) -> Iterator[StructType]:
    """The structs that a struct has, innermost first, then itself."""
    for _, kind in _fields(struct):
        if _is_struct(kind):
            yield from _nested(kind)
    yield struct


def _values(struct: Struct) -> tuple[Any, ...]:
    """The values of the fields as NumPy takes them: structs as tuples, arrays as lists."""
    struct_type: StructType = type(struct)
    return tuple([convert(getattr(struct, name)) for name, convert in _conversions(struct_type)])


@cache
def _conversions(struct: StructType) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Names of the fields, and what makes their values those that NumPy takes."""

    def conversion(kind: Any) -> Callable[[Any], Any]:
        if _is_struct(kind):
            return _values
        if _c_name(kind) == "Strides":
            return lambda strides: (*strides[:2], strides[2:])
        return list if _is_array(kind) else lambda value: value

    return tuple((name, conversion(kind)) for name, kind in _fields(struct))


@cache
def struct_dtype(struct: StructType, index_bits: int, axes: int) -> np.dtype[Any]:
    """The layout of a struct, as C aligns it."""
    index = np.dtype(f"int{index_bits}")
    strides = [("n", index), ("c", index), ("axis", index, (axes,))]
    kinds = {
        "int": np.dtype(np.int32),
        "index_t": index,
        "Strides": np.dtype(strides, align=True),
        "Divisor": np.dtype(list(_DIVISOR), align=True),
    }

    def field(name: str, kind: Any) -> tuple[Any, ...]:
        if _is_struct(kind):
            return name, struct_dtype(kind, index_bits, axes)
        single = name, kinds[_c_name(kind)]
        return (*single, (axes,)) if _is_array(kind) else single

    return np.dtype([field(name, kind) for name, kind in _fields(struct)], align=True)
