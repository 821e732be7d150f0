"""Files that commands write: a path that cannot be written is refused before any work is done."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def output_file(text: str) -> Path:
    """The type of an argument that names a file to write.

    Raises:
        argparse.ArgumentTypeError: nothing can be written there.
    """
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is missing")
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, not a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: permission denied")
    return path
