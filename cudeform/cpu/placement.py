"""Assigns cores to the threads of a call, on Linux.

Linux may wake a thread on the core of the thread that woke it, although another core is idle: in a
virtual machine an idle core can look busy. Both threads then share one core until the kernel
balances its load tens of milliseconds later, and a call of 2 ms takes 4 ms. To prevent this, every
thread of a call is restricted to cores that no other thread of the call uses.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from functools import cache

Cores = Set[int]


def cores_of_threads(threads: int) -> list[Cores | None]:
    """Disjoint sets of cores for the threads of a call; the caller's set comes first.

    The caller's set includes the core that it runs on. None means any core: all sets are None if
    there are more threads than cores, and on systems other than Linux.
    """
    anywhere: list[Cores | None] = [None] * threads
    if threads < 2 or not hasattr(os, "sched_setaffinity"):
        return anywhere
    allowed = os.sched_getaffinity(0)
    current = _sched_getcpu()()
    if threads > len(allowed) or current not in allowed:
        return anywhere
    cores = [current, *sorted(allowed - {current})]
    return [set(cores[first::threads]) for first in range(threads)]


@contextmanager
def on_cores(cores: Cores | None) -> Iterator[None]:
    """Restrict the calling thread to ``cores`` inside the block; None means no restriction."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        with suppress(OSError):  # a sandbox may forbid it, or a core may be offline by now
            os.sched_setaffinity(0, cores)
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)


@cache
def _sched_getcpu() -> Callable[[], int]:
    """The C library's ``sched_getcpu``, which returns the core of the calling thread."""
    function: Callable[[], int] = getattr(ctypes.CDLL(None), "sched_getcpu", lambda: -1)
    return function
