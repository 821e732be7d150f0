"""The BLAS under NumPy: one thread of it while our own threads run, and what it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_lock = threading.Lock()
_users = 0
_limit: Any = None


@cache
def _controller() -> Any:
    """threadpoolctl's view of the loaded libraries, or None where it is not installed."""
    try:
        import threadpoolctl
    except ImportError:
        return None
    return threadpoolctl.ThreadpoolController()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold BLAS to one thread while any caller is inside; the last one out lifts the limit.

    The setting belongs to the process, so overlapping callers share it. Without threadpoolctl BLAS
    keeps its threads: results are right, the cores are oversubscribed.
    """
    global _users, _limit
    controller = _controller()
    if controller is None:
        yield
        return
    with _lock:
        _users += 1
        if _users == 1:
            _limit = controller.limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limit.restore_original_limits()
                _limit = None
