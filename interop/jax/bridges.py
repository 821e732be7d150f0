"""From a compiled XLA program into the engine, and which of two bridges leads there.

* ``buffer``: ``jax.experimental.buffer_callback``, the default. Its calls are the cheapest, and a
  process may end while some are under way. What it compiles is not cached on disk nor exported.
* ``ffi``: a handler of XLA's C interface made with ctypes (``ffi.py``). The program carries the
  whole task as text, so JAX's persistent compilation cache keeps it and ``jax.export`` takes it;
  whoever runs it must have imported ``cudeform.interop.jax``.

Neither copies: the engine reads and writes XLA's own buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from . import cuda, ffi
from .task import Task, performer, shapes_of

BRIDGES = ("buffer", "ffi")

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


def execute(task: Task, platform: str, *arrays: Any) -> list[Any]:
    """Stage a task into a program for ``platform``, ``cpu`` or ``cuda``."""
    shapes = shapes_of(task)[1]
    results = [jax.ShapeDtypeStruct(shape, task.dtype) for shape in shapes]
    if platform == "cuda":
        results += cuda.scratch(task)
    staged = _staged(task, platform, results)(*arrays)
    return list(staged[: len(shapes)])


def _staged(task: Task, platform: str, results: list[Any]) -> Any:
    if task.bridge == "ffi":
        return ffi.staged(task, results)
    if platform == "cuda":
        capturable = cuda.CAPTURABLE
        return buffer_callback(cuda.callback(task), results, command_buffer_compatible=capturable)
    return buffer_callback(_callback(task), results)


def _callback(task: Task) -> Any:
    perform, view = performer(task), np.asarray

    def run(context: Any, results: Any, *arrays: Any) -> None:
        perform(map(view, arrays), [*map(view, results)])

    return run
