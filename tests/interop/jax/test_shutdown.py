"""A process that exits during running calls neither hangs nor aborts."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys

import pytest

from cudeform.interop.jax import shutdown

# The call needs the result of a product, so XLA runs it in a thread, after the main thread went on.
PROGRAM = """
import sys, threading, time
import jax, jax.numpy as jnp
import cudeform
from cudeform import engine
from cudeform.interop.jax import bridge

def slow(operands, geometry, options, output, device):
    time.sleep(0.02)
    output[...] = 1

engine.forward = slow
devices, name, end = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", devices)
images = jax.sharding.NamedSharding(jax.make_mesh((devices,), "n"), jax.sharding.PartitionSpec("n"))
big = jax.device_put(jnp.ones((devices, 1000, 1000)), images)
offset = jax.device_put(jnp.zeros((devices, 2, 4, 4)), images)

product = jax.jit(lambda big: (big @ big @ big)[:, None, :4, :4])
call = jax.jit(lambda image: cudeform.deform_conv2d(image, offset, jnp.ones((1, 1, 1, 1))))

results = []

def work():
    with bridge(name):
        results.extend(call(product(big)) for _ in range(10))

with bridge(name):
    call(product(big)).block_until_ready()
if end == "by a thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
assert not results[-1].is_ready()
if end == "dropped":
    results.clear()
if end == "failed":
    def slow(*arguments): raise ValueError
    engine.forward = slow
print("done")
"""
BRIDGES = ("buffer", "ffi")
ENDS = ("referenced", "dropped", "failed", "by a thread")


@pytest.mark.parametrize(
    ("devices", "bridge", "end"),
    [
        *((1, name, end) for name in BRIDGES for end in ENDS),
        (8, "buffer", "failed"),
        (8, "buffer", "by a thread"),
    ],
)
def test_a_process_may_end_while_calls_are_under_way(devices: int, bridge: str, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(devices), bridge, end],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "Traceback" not in done.stderr, done.stderr


# Handlers registered before the first call run after the one that waits for calls.
FORKS = """
import atexit, os, warnings
import jax, jax.numpy as jnp
import cudeform
warnings.simplefilter("ignore")  # JAX warns of fork
parent = os.getpid()
atexit.register(lambda: os.getpid() == parent or os._exit(7))
one = jnp.ones((1, 1, 1, 1))
cudeform.deform_conv2d(one, jnp.zeros((1, 2, 1, 1)), one).block_until_ready()
child = os.fork()
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    jax.live_arrays = lambda: os._exit(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_does_not_wait() -> None:
    # XLA's threads do not exist in the child.
    command = [sys.executable, "-c", FORKS]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    assert done.stdout == "7\n", done.stderr


def test_a_system_without_fork_waits_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[object] = []
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    monkeypatch.setattr(atexit, "register", registered.append)
    shutdown.wait_for_calls_at_exit.__wrapped__()
    assert registered == [shutdown._wait]
