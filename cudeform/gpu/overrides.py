"""Choices that benchmarks and tests can force, in place of the engine's own; no user option.

This module defines the names of the choices. ``algorithms`` has the rule that applies if nothing is
forced, or if a forced algorithm cannot compute a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

# Algorithms of the forward. The backward has "direct" and "im2col".
ALGORITHMS = ("direct", "fused", "im2col")

# Ways to sum the gradient of the input:
# * "scalar": atomic additions of single numbers to global memory, in no fixed order;
# * "vector": atomic additions of four float32 numbers (``red.global.add.v4.f32``);
# * "gather": no atomics; each pixel sums a sorted list of samples, in the order of the list.
SCATTERS = ("scalar", "vector", "gather")


class Forced(NamedTuple):
    """The forced choices; None leaves a choice to the engine."""

    algorithm: str | None = None
    scatter: str | None = None


NOTHING = Forced()

_forced: ContextVar[Forced] = ContextVar("cudeform_forced", default=NOTHING)


def forced() -> Forced:
    """The choices forced in this thread or task."""
    return _forced.get()


@contextmanager
def force(*, algorithm: str | None = None, scatter: str | None = None) -> Iterator[None]:
    """Force choices within a ``with`` block, in this thread or task only.

    Args:
        algorithm: one of ``ALGORITHMS``; None does not change it.
        scatter: one of ``SCATTERS``; None does not change it.

    Raises:
        ValueError: there is no such name.
    """
    choices = {"algorithm": (algorithm, ALGORITHMS), "scatter": (scatter, SCATTERS)}
    for what, (name, names) in choices.items():
        if name is not None and name not in names:
            raise ValueError(f"{what} must be one of {', '.join(names)}, got {name!r}")
    given = {what: name for what, (name, _) in choices.items() if name is not None}
    token = _forced.set(_forced.get()._replace(**given))
    try:
        yield
    finally:
        _forced.reset(token)
