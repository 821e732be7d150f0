"""Checks of output files, made before a command does any work."""

from __future__ import annotations

import os
from pathlib import Path

from cudeform.commands import CommandError


def output_file(text: str) -> Path:
    """Check the name of an output file; for use as ``type`` in ``add_argument``.

    Raises:
        CommandError: the file cannot be written.
    """
    path = Path(text)
    why = None
    if not text:
        why = "a file's name is missing"
    elif path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = f"there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "permission denied"
    if why is not None:
        raise CommandError(f"cannot write {text!r}: {why}")
    return path


def picture_file(text: str, endings: tuple[str, ...]) -> Path:
    """Check the name of a picture to write; its suffix selects the format.

    Raises:
        CommandError: the file cannot be written, or its suffix is not among ``endings``.
    """
    path = output_file(text)
    if path.suffix.lower() not in endings:
        raise CommandError(
            f"cannot write {text!r}: the name of a picture ends in {', '.join(endings)}"
        )
    return path


def cannot_write(path: Path, error: OSError) -> CommandError:
    """The error for a file whose writing failed in spite of the check."""
    return CommandError(f"cannot write {str(path)!r}: {error.strerror or error}")
