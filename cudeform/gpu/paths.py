"""Which way through the engine: measurements and tests can force one, a user cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Ways of the forward; of these, "direct" and "im2col" are ways of the backward too.
FORWARD = ("direct", "fused", "im2col")

_forced: ContextVar[str | None] = ContextVar("cudeform_forced_path", default=None)


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Make calls within go one way, where a convolution has it.

    Raises:
        ValueError: there is no such way.
    """
    if name not in FORWARD:
        raise ValueError(f"the path must be one of {', '.join(FORWARD)}, got {name!r}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_path() -> str | None:
    """The way that calls go now; None: the engine chooses."""
    return _forced.get()
