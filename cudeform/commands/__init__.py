"""What ``python -m cudeform`` runs: a module for each command."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot run as it was called; the text says why and what to do.

    It is printed in one line, and the exit status is 2.
    """
