"""The BLAS under NumPy, held to one thread while our own threads run.

OpenBLAS as NumPy's wheels bring it has one pool of threads for the process: with two levels of
threads the cores are oversubscribed, and with other numbers of them a long sum is split in other
places, so rounded otherwise. Where threadpoolctl is not installed, and for other libraries, BLAS
keeps its threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_lock = threading.Lock()
_users = 0
_before: list[int] = []


@cache
def _pools() -> list[Any]:
    """threadpoolctl's controllers of the pools that belong to the whole process."""
    try:
        import threadpoolctl
    except ImportError:
        return []
    libraries = threadpoolctl.ThreadpoolController().lib_controllers
    return [
        library
        for library in libraries
        if library.internal_api == "openblas" and library.threading_layer == "pthreads"
    ]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold BLAS to one thread while any caller is inside; the last one out lifts the limit."""
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1:
            _before = [library.get_num_threads() for library in _pools()]
            _set_threads([1] * len(_before))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set_threads(_before)


def _set_threads(counts: list[int]) -> None:
    for library, count in zip(_pools(), counts, strict=True):
        # Newer threadpoolctl lets one thread alone set the number until it gives up control, but
        # the first caller in and the last one out may be different threads.
        give_up_control = getattr(library, "clear_controlling_thread", lambda force: None)
        give_up_control(force=True)
        library.set_num_threads(count)
        give_up_control(force=True)
