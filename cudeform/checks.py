"""What arrays may come into a call together, and which results may be asked for.

Sizes are ``geometry.py``'s. Here too, only names and shapes are looked at, never contents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_dtypes(dtypes: Mapping[str, str]) -> str:
    """The one dtype that all arrays of a call share.

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
    return expected


def check_devices(devices: Mapping[str, Any]) -> Any:
    """The one device that all arrays of a call share.

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
    return expected


GRADIENTS = ("input", "offset", "weight", "bias", "mask")
DOUBLE_GRADIENTS = ("grad_output", "input", "offset", "weight", "mask")


def check_needs(
    needs: Sequence[str], names: tuple[str, ...], present: Mapping[str, bool]
) -> frozenset[str]:
    """The gradients that a backward call shall compute: those asked for that have an argument.

    Args:
        needs: what the caller asks for.
        names: what may be asked for.
        present: for arguments that may be left out, whether they were given.

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
    return frozenset(name for name in needs if present.get(name, True))


def check_tangents(
    tangents: Mapping[str, Sequence[int] | None], arguments: Mapping[str, Sequence[int] | None]
) -> None:
    """Refuse tangents whose shapes, by name, are not those of their arguments."""
    for name, shape in tangents.items():
        if name not in arguments:
            raise ValueError(f"tangent of {name} must be None, for {name} is None")
        if shape != arguments[name]:
            raise ValueError(
                f"tangent of {name} must have the shape of {name}, {arguments[name]}, got {shape}"
            )
