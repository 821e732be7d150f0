"""Makes a process wait at exit for calls that are still running.

XLA runs programs in its own threads. After Python has started to shut down, it terminates any
thread that enters the interpreter, and a process with running calls would hang or abort.
"""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@cache
def wait_for_calls_at_exit() -> None:
    """Make the process wait at exit; called when a program with calls is lowered."""
    # Exit handlers run in reverse order, so this one runs before JAX's own handlers.
    atexit.register(_wait)
    # A forked child has none of XLA's threads, so it would wait forever. Windows has no fork.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(atexit.unregister, _wait))


def _wait() -> None:
    for array in jax.live_arrays():
        # The error of a computation is raised where its result is read.
        with suppress(Exception):
            array.block_until_ready()
    _wait_for_dropped_results()


def _wait_for_dropped_results() -> None:
    """Wait for programs whose results were dropped, by running new programs after them.

    The programs of a thread run on a device in order, but programs for one device and programs for
    several devices can overtake each other. So one program runs on one device, and one on all.
    """
    jax.jit(partial(jnp.zeros, ()))().block_until_ready()
    devices = np.array(jax.local_devices())
    if len(devices) > 1:
        on_all = NamedSharding(Mesh(devices, "all"), PartitionSpec("all"))
        zeros = partial(jnp.zeros, len(devices))
        jax.jit(zeros, out_shardings=on_all)().block_until_ready()
