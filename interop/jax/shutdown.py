"""The end of a process waits for calls that are under way.

XLA runs programs in threads of its own. Once Python has begun to shut down, a thread that wants to
enter it is ended, and a process with calls under way would hang or abort.
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
def expect_calls() -> None:
    """Let the end of the process wait, from the first program on that has such calls."""
    # Handlers run in reverse order: this one before those with which JAX takes itself down.
    atexit.register(_wait)
    # A copy of the process has none of XLA's threads: it would wait for ever.
    os.register_at_fork(after_in_child=partial(atexit.unregister, _wait))


def _wait() -> None:
    for array in jax.live_arrays():
        # What went wrong in a computation is told to whoever reads its result.
        with suppress(Exception):
            array.block_until_ready()
    _wait_for_what_nobody_kept()


def _wait_for_what_nobody_kept() -> None:
    """Run programs behind those whose results cannot be waited for, on one device and on all.

    What a thread gives to a device is done in order, but programs for one device and programs for
    several of them overtake each other.
    """
    jax.jit(partial(jnp.zeros, ()))().block_until_ready()
    devices = np.array(jax.local_devices())
    if len(devices) > 1:
        everywhere = NamedSharding(Mesh(devices, "all"), PartitionSpec("all"))
        zeros = partial(jnp.zeros, len(devices))
        jax.jit(zeros, out_shardings=everywhere)().block_until_ready()
