"""Which arrays may come into a call together, and which results may be asked for.

``geometry.py`` checks sizes. Only names and shapes are looked at here, never contents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents

DTYPES = ("float16", "bfloat16", "float32", "float64")

GRADIENTS = Gradients._fields
DOUBLE_GRADIENTS = DoubleGradients._fields


def check_dtypes(dtypes: Mapping[str, str]) -> None:
    """Refuse a call whose arrays do not share one supported dtype.

    Args:
        dtypes: name of the dtype by name of the argument, ``{"input": "float32", ...}``.

    Raises:
        TypeError: a dtype other than float16, bfloat16, float32, float64, or two that differ.
    """
    expected = dtypes["input"]
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise TypeError(f"{name} must have a dtype among {', '.join(DTYPES)}, got {dtype}")
        if dtype != expected:
            raise TypeError(
                f"{name} must have the dtype of input, {expected}, got {dtype}; "
                "convert it before the call"
            )


def check_devices(devices: Mapping[str, Any]) -> None:
    """Refuse a call whose arrays are not on one device.

    Args:
        devices: anything that names a device and compares equal to itself, by name of the argument.

    Raises:
        ValueError: two that differ.
    """
    expected = devices["input"]
    for name, device in devices.items():
        if device != expected:
            raise ValueError(
                f"{name} must be on the device of input, {expected}, got {device}; "
                "copy it there before the call"
            )


def check_needs(needs: Sequence[str], names: tuple[str, ...], operands: Operands) -> frozenset[str]:
    """The gradients that a backward call has to compute: those asked for that have an argument.

    Args:
        needs: what the caller asks for.
        names: what may be asked for.
        operands: of the call; a bias or a mask that is None has no gradient.

    Raises:
        TypeError: a string instead of a sequence of names.
        ValueError: a name that is no argument with a gradient.
    """
    if isinstance(needs, str) or not isinstance(needs, Iterable):
        remedy = f'; write ("{needs}",)' if isinstance(needs, str) else ""
        raise TypeError(f"needs must be a sequence of names, got {needs!r}{remedy}")
    for name in needs:
        if name not in names:
            raise ValueError(f"needs must name arguments among {names}, got {name!r}")
    absent = [name for name in ("bias", "mask") if getattr(operands, name) is None]
    return frozenset(name for name in needs if name not in absent)


def check_tangents(tangents: Tangents | Gradients, operands: Operands) -> Tangents:
    """Tangents whose shapes are those of their arguments.

    ``Gradients`` are accepted, so that gradients can be passed on as a direction.

    Raises:
        TypeError: something else than ``Tangents`` or ``Gradients``.
        ValueError: a tangent of another shape, or of an argument that is None.
    """
    if not isinstance(tangents, (Tangents, Gradients)):
        raise TypeError(
            f"tangents must be a cudeform.Tangents, got {type(tangents).__name__}; "
            "write cudeform.Tangents(input=..., offset=...)"
        )
    for name, tangent in zip(GRADIENTS, tangents, strict=True):
        if tangent is None:
            continue
        argument = getattr(operands, name)
        if argument is None:
            raise ValueError(f"tangent of {name} must be None, for {name} is None")
        shape, expected = getattr(tangent, "shape", None), getattr(argument, "shape", None)
        if shape != expected:
            raise ValueError(
                f"tangent of {name} must have the shape of {name}, {expected}, got {shape}"
            )
    return Tangents(*tangents)
