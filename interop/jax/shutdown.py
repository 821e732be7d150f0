"""A process that ends waits for calls that are under way.

XLA runs programs in threads of its own. Once Python has begun to shut down, a thread that enters it
is ended, and a process with calls under way would hang or abort.
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
    """Make the process wait when it ends; called for each program that has calls."""
    # Handlers run in reverse order: this one before those with which JAX takes itself down.
    atexit.register(_wait)
    # A forked child has none of XLA's threads and would wait for ever. Windows has no fork.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(atexit.unregister, _wait))


def _wait() -> None:
    for array in jax.live_arrays():
        # The error of a computation is reported to the reader of its result.
        with suppress(Exception):
            array.block_until_ready()
    _wait_for_dropped_results()


def _wait_for_dropped_results() -> None:
    """Run a program on one device and one on all, after those whose results nobody holds.

    A thread's programs run on a device in order, but programs for one device and programs for
    several devices overtake each other.
    """
    jax.jit(partial(jnp.zeros, ()))().block_until_ready()
    devices = np.array(jax.local_devices())
    if len(devices) > 1:
        on_all = NamedSharding(Mesh(devices, "all"), PartitionSpec("all"))
        zeros = partial(jnp.zeros, len(devices))
        jax.jit(zeros, out_shardings=on_all)().block_until_ready()
