"""The commands of ``python -m cudeform``, one module each."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot run as it was called. The text says why and what to do.

    ``main`` prints the text on one line and exits with status 2.
    """
