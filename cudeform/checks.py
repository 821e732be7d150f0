"""Which arrays may come into a call together, and which results may be asked for.

``geometry.py`` and ``sums/shapes.py`` check sizes. Only names and shapes are read here, never
contents. Names are those of the arguments as users write them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients

DTYPES = ("float16", "bfloat16", "float32", "float64")
HALVES = ("float16", "bfloat16")

TANGENT = "tangent of "

GRADIENTS = Gradients._fields
DOUBLE_GRADIENTS = DoubleGradients._fields


def check_dtypes(dtypes: Mapping[str, str], coordinates: Collection[str] = ()) -> None:
    """Refuse a call whose arrays do not have the dtypes that may come together.

    All arrays share one dtype. But coordinates, and the weights that go with them, may be float32
    beside a first array in half precision; they share one dtype then.

    Args:
        dtypes: name of the dtype by name of the argument, ``{"input": "float32", ...}``.
        coordinates: names of the arguments that may be float32 beside half precision.

    Raises:
        TypeError: a dtype other than float16, bfloat16, float32, float64, or two that do not go
            together.
    """
    first, expected = next(iter(dtypes.items()))
    of_coordinates: tuple[str, str] | None = None
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise TypeError(f"{name} must have a dtype among {', '.join(DTYPES)}, got {dtype}")
        if name.removeprefix(TANGENT) in coordinates:
            other, wanted = of_coordinates or (first, expected)
            may_differ = of_coordinates is None and expected in HALVES and dtype == "float32"
            if dtype != wanted and not may_differ:
                either = " or float32" if of_coordinates is None and expected in HALVES else ""
                raise TypeError(_wrong_dtype(name, other, wanted + either, dtype))
            of_coordinates = of_coordinates or (name, dtype)
        elif dtype != expected:
            raise TypeError(_wrong_dtype(name, first, expected, dtype))


def _wrong_dtype(name: str, other: str, expected: str, got: str) -> str:
    return (
        f"{name} must have the dtype of {other}, {expected}, got {got}; convert it before the call"
    )


def check_devices(devices: Mapping[str, Any]) -> None:
    """Refuse a call whose arrays are not on one device.

    Args:
        devices: anything that names a device and compares equal to itself, by name of the argument.

    Raises:
        ValueError: two that differ.
    """
    first, expected = next(iter(devices.items()))
    for name, device in devices.items():
        if device != expected:
            raise ValueError(
                f"{name} must be on the device of {first}, {expected}, got {device}; "
                "copy it there before the call"
            )


def check_needs(
    needs: Sequence[str], names: Sequence[str], absent: Collection[str] = ()
) -> frozenset[str]:
    """The gradients that a backward call has to compute: those asked for that have an argument.

    Args:
        needs: what the caller asks for.
        names: what may be asked for.
        absent: names of arguments that are None, which have no gradient.

    Raises:
        TypeError: a string instead of a sequence of names.
        ValueError: a name that is no argument with a gradient.
    """
    if isinstance(needs, str) or not isinstance(needs, Iterable):
        remedy = f'; write ("{needs}",)' if isinstance(needs, str) else ""
        raise TypeError(f"needs must be a sequence of names, got {needs!r}{remedy}")
    for name in needs:
        if name not in names:
            raise ValueError(f"needs must name arguments among {tuple(names)}, got {name!r}")
    return frozenset(name for name in needs if name not in absent)


def check_tangents(tangents: Any, types: Sequence[type], arguments: Mapping[str, Any]) -> None:
    """Refuse tangents of another type, or whose shapes are not those of their arguments.

    Args:
        tangents: a named tuple with one tangent for each argument, None for zero.
        types: those that are accepted; the first one is made for tangents.
        arguments: by name, None for one that is absent.

    Raises:
        TypeError: something of another type.
        ValueError: a tangent of another shape, or of an argument that is None.
    """
    if not isinstance(tangents, tuple(types)):
        fields = ", ".join(f"{name}=..." for name in list(arguments)[:2])
        raise TypeError(
            f"tangents must be a cudeform.{types[0].__name__}, got {type(tangents).__name__}; "
            f"write cudeform.{types[0].__name__}({fields})"
        )
    for name, tangent in tangents._asdict().items():  # type: ignore[attr-defined]
        if tangent is None:
            continue
        argument = arguments[name]
        if argument is None:
            raise ValueError(f"tangent of {name} must be None, for {name} is None")
        shape, expected = getattr(tangent, "shape", None), getattr(argument, "shape", None)
        if shape != expected:
            raise ValueError(
                f"tangent of {name} must have the shape of {name}, {expected}, got {shape}"
            )
