"""Files that commands write: one that cannot be written is refused before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from cudeform.commands import CommandError


def output_file(text: str) -> Path:
    """The file of an argument, as the ``type`` of ``add_argument``.

    Raises:
        CommandError: it cannot be written.
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
    """The same for a picture, whose format follows from the ending of its name.

    Raises:
        CommandError: it cannot be written, or has another ending.
    """
    path = output_file(text)
    if path.suffix.lower() not in endings:
        raise CommandError(
            f"cannot write {text!r}: the name of a picture ends in {', '.join(endings)}"
        )
    return path


def cannot_write(path: Path, error: OSError) -> CommandError:
    """The error of a file that could not be written after all."""
    return CommandError(f"cannot write {str(path)!r}: {error.strerror or error}")
