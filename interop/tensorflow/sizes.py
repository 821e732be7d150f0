"""Shapes while TensorFlow traces a function, where some sizes are known only when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Unknown:
    """A size that is not known yet: every check of it passes, and what follows from it is unknown.

    ``Geometry`` then checks what depends on known sizes alone, in its own words.
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
    """A shape of TensorFlow with ``Unknown`` for None; its rank must be known."""
    return tuple(UNKNOWN if size is None else size for size in shape)


def merged(one: Sequence[Any], other: Sequence[Any]) -> list[int | None]:
    """The sizes that one of two shapes of the same array knows; None where neither does."""
    sizes = [a if b is UNKNOWN else b for a, b in zip(one, other, strict=True)]
    return [None if size is UNKNOWN else size for size in sizes]
