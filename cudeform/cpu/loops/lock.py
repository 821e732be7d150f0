"""A lock between processes, so that those that start together compile a loop once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LIMIT = 60.0  # seconds; several times what the slowest loop takes to compile
INTERVAL = 0.01  # seconds between two attempts


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is created if it is missing.

    The lock saves time, and correctness does not depend on it: the block runs without the lock on
    Windows, if the file system has no locks or cannot be written, and after ``LIMIT``. The system
    releases the lock of a process that dies.
    """
    try:
        file = path.open("w")
    except OSError:
        yield
        return
    with file:  # which releases the lock
        _wait_for(file.fileno())
        yield


def _wait_for(file: int) -> None:
    if sys.platform == "win32":
        return
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(INTERVAL)
        except OSError:
            return
        else:
            return
