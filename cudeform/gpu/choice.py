"""What the engine chooses itself, and measurements and tests can force: no option of a user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar


class Choice:
    """One of some names, forced within a ``with`` block, in this thread or task only."""

    def __init__(self, what: str, names: Sequence[str]) -> None:
        """Say what is chosen among which names."""
        self._what, self._names = what, names
        self._forced: ContextVar[str | None] = ContextVar(f"cudeform_{what}", default=None)

    @contextmanager
    def forced(self, name: str) -> Iterator[None]:
        """Make calls within take what is named, where they can.

        Raises:
            ValueError: there is no such name.
        """
        if name not in self._names:
            raise ValueError(f"{self._what} must be one of {', '.join(self._names)}, got {name!r}")
        token = self._forced.set(name)
        try:
            yield
        finally:
            self._forced.reset(token)

    def get(self) -> str | None:
        """What is forced; None: the engine chooses."""
        return self._forced.get()
