"""Lowering of an engine call into an XLA program, through one of two bridges.

* ``buffer``: ``jax.experimental.buffer_callback``, the default. It has the least overhead per call.
  JAX can neither cache nor export a program with such a callback, so an export uses ``ffi``.
* ``ffi``: a handler for XLA's C interface, made with ctypes (``ffi.py``). The program contains the
  whole spec as text, so JAX's persistent compilation cache and ``jax.export`` accept it. A process
  that runs the program must have imported ``cudeform.interop.jax``.

Neither bridge copies arrays: the engine reads and writes XLA's buffers.
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

# Custom calls that buffer_callback lowers to. Their attribute `index` is the callback's number.
BUFFER_TARGETS = {"cpu": "xla_buffer_python_cpu_callback", "cuda": "xla_buffer_python_gpu_callback"}

_current_bridge: ContextVar[str] = ContextVar("cudeform_jax_bridge", default="buffer")


@contextmanager
def bridge(name: str) -> Iterator[None]:
    """Choose the bridge for the calls that are traced inside a ``with`` block.

    Args:
        name: ``"buffer"``, or ``"ffi"`` for programs to be cached on disk. An export always
            uses ``"ffi"``.

    Raises:
        ValueError: there is no bridge of that name.
    """
    if name not in BRIDGES:
        raise ValueError(f"bridge must be one of {BRIDGES}, got {name!r}")
    token = _current_bridge.set(name)
    try:
        yield
    finally:
        _current_bridge.reset(token)


def current_bridge() -> str:
    """The bridge for calls that are traced in the current context."""
    return _current_bridge.get()


def is_exported(context: Any) -> bool:
    """Whether the program is lowered for ``jax.export``, which supports only the ``ffi`` bridge."""
    # JAX has no public function for this. If a version of JAX lacks the private field, the result
    # is False, and JAX then refuses to export a program that uses the default bridge.
    parameters = getattr(context.module_context, "lowering_parameters", None)
    return bool(getattr(parameters, "for_export", False))


@dataclass(frozen=True)
class Target:
    """The platform and the devices that a program is lowered for.

    Attributes:
        platform: ``cpu`` or ``cuda``.
        gpus: CUDA ordinals of the GPUs of this process that may run the program.
        callback: the result of :func:`host_callback`; None if it was not called.
    """

    platform: str
    gpus: tuple[int, ...] = ()
    callback: int | None = None


def execute(spec: CallSpec, target: Target, *arrays: Any) -> list[Any]:
    """Add a call to the program that is being traced and return its outputs."""
    wait_for_calls_at_exit()
    described = zip(spec.output_shapes(), spec.output_dtypes(), strict=True)
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in described]
    if target.platform == "cuda":
        results.append(cuda.workspace(spec, target.gpus))
    staged = _staged(spec, target, results)(*arrays)
    return list(staged[: len(spec.outputs)])


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
    """Add a callback to the module that is being lowered, for calls of any batch size.

    A program refers to a callback of ``buffer_callback`` by its number in the module in which it
    was lowered. The partitioner lowers the partitioned call in a separate module and then inserts
    the result into this module, so that call needs a callback number of this module.

    Returns:
        The callback's number; None if the bridge needs no callback.
    """
    if spec.bridge == "ffi":
        return None
    inputs, images = len(spec.inputs), spec.input_index()

    def run(context: Any, *buffers: Any) -> tuple[()]:
        local = spec.with_batch(buffers[images].shape[0])
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
