"""From a compiled XLA program into the engine, and which of two bridges leads there.

* ``buffer``: ``jax.experimental.buffer_callback``, the default. Its calls are the cheapest. What it
  compiles is not cached on disk nor exported.
* ``ffi``: a handler of XLA's C interface made with ctypes (``ffi.py``). The program carries the
  whole task as text, so JAX's persistent compilation cache keeps it and ``jax.export`` takes it;
  whoever runs it must have imported ``cudeform.interop.jax``.

Neither copies: the engine reads and writes XLA's own buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from . import cuda, ffi
from .call_spec import Task, performer, shapes_of
from .shutdown import expect_calls

BRIDGES = ("buffer", "ffi")

# What buffer_callback calls by a number.
TARGETS = {"cpu": "xla_buffer_python_cpu_callback", "cuda": "xla_buffer_python_gpu_callback"}

_chosen: ContextVar[str] = ContextVar("cudeform_jax_bridge", default="buffer")


@contextmanager
def bridge(name: str) -> Iterator[None]:
    """Choose the bridge of the calls that are traced inside a ``with`` block.

    Args:
        name: ``"buffer"``, or ``"ffi"`` for programs that shall be cached on disk or exported.

    Raises:
        ValueError: for another name.
    """
    if name not in BRIDGES:
        raise ValueError(f"bridge must be one of {BRIDGES}, got {name!r}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen() -> str:
    """The bridge in force here."""
    return _chosen.get()


def execute(task: Task, platform: str, *arrays: Any, hosted: int | None = None) -> list[Any]:
    """Stage a task into a program for ``platform``, ``cpu`` or ``cuda``.

    Args:
        task: the call.
        platform: where the program will run.
        arrays: what goes in.
        hosted: what ``host`` gave, in a module that will be pasted into another.
    """
    expect_calls()
    shapes = shapes_of(task)[1]
    results = [jax.ShapeDtypeStruct(shape, task.dtype) for shape in shapes]
    if platform == "cuda":
        results += cuda.scratch(task)
    staged = _staged(task, platform, results, hosted)(*arrays)
    return list(staged[: len(shapes)])


def _staged(task: Task, platform: str, results: list[Any], hosted: int | None) -> Any:
    if task.bridge == "ffi":
        return ffi.staged(task, results)
    if hosted is not None:
        call = jax.ffi.ffi_call(TARGETS[platform], results)
        return lambda *arrays: call(*arrays, index=np.uint64(hosted))
    capturable = platform == "cuda" and cuda.CAPTURABLE
    return buffer_callback(_callback(task, platform), results, command_buffer_compatible=capturable)


def host(context: Any, task: Task, platform: str) -> int | None:
    """Let the module that is being lowered hold the callback of a task of any batch.

    ``buffer_callback`` finds a callback by its number in the module that it was lowered in. What
    the partitioner makes is lowered in a module of its own and pasted into this one, and has to
    call by this one's numbers.
    """
    if task.bridge == "ffi":
        return None
    inputs, images = len(task.inputs), task.inputs.index("input")

    def run(context: Any, *buffers: Any) -> tuple[()]:
        local = task.with_sizes(batch=buffers[images].shape[0])
        _callback(local, platform)(context, buffers[inputs:], *buffers[:inputs])
        return ()

    module = context.module_context
    module.add_host_callback(run)
    return len(module.host_callbacks) - 1


@cache
def _callback(task: Task, platform: str) -> Any:
    if platform == "cuda":
        return cuda.callback(task)
    perform, view = performer(task), np.asarray

    def run(context: Any, results: Any, *arrays: Any) -> None:
        perform(map(view, arrays), [*map(view, results)])

    return run
