"""How a compiled XLA program calls the engine: over one of two bridges.

* ``buffer``: ``jax.experimental.buffer_callback``, the default. Its calls are the cheapest. JAX can
  neither cache nor export a program that has such a callback, so an export takes the other bridge.
* ``ffi``: a handler of XLA's C interface made with ctypes (``ffi.py``). The program carries the
  whole spec as text, so JAX's persistent compilation cache keeps it and ``jax.export`` takes it; a
  process that runs it must have imported ``cudeform.interop.jax``.

Neither copies: the engine reads and writes XLA's own buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from . import cuda, ffi
from .call_spec import CallSpec, engine_call
from .shutdown import wait_for_calls_at_exit

BRIDGES = ("buffer", "ffi")

# Custom calls that buffer_callback lowers to; an attribute has the number of the callback.
BUFFER_TARGETS = {"cpu": "xla_buffer_python_cpu_callback", "cuda": "xla_buffer_python_gpu_callback"}

_current_bridge: ContextVar[str] = ContextVar("cudeform_jax_bridge", default="buffer")


@contextmanager
def bridge(name: str) -> Iterator[None]:
    """Choose the bridge of the calls that are traced inside a ``with`` block.

    Args:
        name: ``"buffer"``, or ``"ffi"`` for programs that are to be cached on disk. An export
            takes ``"ffi"`` in any case.

    Raises:
        ValueError: for another name.
    """
    if name not in BRIDGES:
        raise ValueError(f"bridge must be one of {BRIDGES}, got {name!r}")
    token = _current_bridge.set(name)
    try:
        yield
    finally:
        _current_bridge.reset(token)


def current_bridge() -> str:
    """The bridge of calls that are traced here."""
    return _current_bridge.get()


def is_exported(context: Any) -> bool:
    """Whether ``jax.export`` lowers the program, which takes the ``ffi`` bridge alone."""
    # JAX has no public function for this. Without the private field an export by the default
    # bridge is refused by JAX.
    parameters = getattr(context.module_context, "lowering_parameters", None)
    return bool(getattr(parameters, "for_export", False))


@dataclass(frozen=True)
class Target:
    """The platform and the devices that a program is lowered for.

    Attributes:
        platform: ``cpu`` or ``cuda``.
        gpus: CUDA ordinals of the GPUs of this process that may run the program.
        callback: number of the callback that :func:`host_callback` added, if it added one.
    """

    platform: str
    gpus: tuple[int, ...] = ()
    callback: int | None = None


def execute(spec: CallSpec, target: Target, *arrays: Any) -> list[Any]:
    """Stage a call into the program that is being traced."""
    wait_for_calls_at_exit()
    shapes = spec.output_shapes()
    results = [jax.ShapeDtypeStruct(shape, spec.dtype) for shape in shapes]
    if target.platform == "cuda":
        results.append(cuda.workspace(spec, target.gpus))
    staged = _staged(spec, target, results)(*arrays)
    return list(staged[: len(shapes)])


def _staged(spec: CallSpec, target: Target, results: list[Any]) -> Callable[..., Any]:
    if spec.bridge == "ffi":
        return ffi.staged(spec, results)
    if target.callback is not None:
        call = jax.ffi.ffi_call(BUFFER_TARGETS[target.platform], results)
        return partial(call, index=np.uint64(target.callback))
    callback: Callable[..., Any] = buffer_callback(
        _callback(spec, target.platform),
        results,
        command_buffer_compatible=target.platform == "cuda" and cuda.CAPTURABLE,
    )
    return callback


def host_callback(context: Any, spec: CallSpec, platform: str) -> int | None:
    """Add a callback for a spec of any batch to the module that is being lowered.

    A program finds the callbacks of ``buffer_callback`` by their number in the module that they
    were lowered in. The partitioner lowers its part in a module of its own and pastes the result
    into this module, so that part has to call by a number of this module.

    Returns:
        The number; None for a bridge that needs no callback.
    """
    if spec.bridge == "ffi":
        return None
    inputs, images = len(spec.inputs), spec.input_index()

    def run(context: Any, *buffers: Any) -> tuple[()]:
        local = spec.with_sizes(batch=buffers[images].shape[0])
        _callback(local, platform)(context, buffers[inputs:], *buffers[:inputs])
        return ()

    module = context.module_context
    module.add_host_callback(run)
    return len(module.host_callbacks) - 1


@cache
def _callback(spec: CallSpec, platform: str) -> Callable[..., None]:
    if platform == "cuda":
        return cuda.callback(spec)
    call = engine_call(spec)

    def run(context: Any, results: Any, *arrays: Any) -> None:
        call.run([*map(np.asarray, arrays)], [*map(np.asarray, results)])

    return run
