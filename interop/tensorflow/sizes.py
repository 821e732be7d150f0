"""Shapes in a traced function, in which some sizes are known only at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Unknown:
    """A size that is unknown: it passes every check, and every size computed from it is unknown.

    So ``Geometry`` checks exactly those rules that depend on known sizes alone.
    """

    def _unknown(self, *_: object) -> Unknown:
        return self

    def _false(self, *_: object) -> bool:
        return False

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _unknown
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _unknown
    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _false
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "None"


UNKNOWN = Unknown()


def traced_shape(shape: Sequence[int | None]) -> tuple[Any, ...]:
    """Convert a shape of known rank: None becomes ``Unknown``."""
    return tuple(UNKNOWN if size is None else size for size in shape)


def merged(one: Sequence[Any], other: Sequence[Any]) -> list[int | None]:
    """Merge two partially known shapes of the same array; None where both are unknown."""
    sizes = [a if b is UNKNOWN else b for a, b in zip(one, other, strict=True)]
    return [None if size is UNKNOWN else size for size in sizes]
