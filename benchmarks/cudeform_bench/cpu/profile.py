"""Profile of cudeform on a CPU: fractions of matrix products, of loops over samples, of the rest.

Each function of the engine is replaced by a timed one in the modules that call it. The call runs on
one thread. The clock counts that thread's processor time, because wall time depends on the load of
the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

REPEATS = 3

# For each part of the profile, its functions, each with the modules of cudeform.cpu that call it.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "product": {
        "forward": ("output_of",),
        "backward": ("grad_columns_of",),
        "panels": ("add_grad_weight",),
    },
    "sampling": {
        "forward": ("gather_columns", "add_samples"),
        "backward": ("gather_columns", "sample_gradients", "scatter"),
    },
}


def shares(call: Callable[[], Any]) -> dict[str, float]:
    """Fractions of the time of a call on one thread by part, with "rest".

    They are those of the fastest of several calls.
    """
    call()  # an untimed call, for compilation and imports
    fastest: tuple[float, dict[str, float]] | None = None
    for _ in range(REPEATS):
        with _timed() as seconds:
            started = time.thread_time()
            call()
            total = time.thread_time() - started
        if fastest is None or total < fastest[0]:
            fastest = total, dict(seconds)
    assert fastest is not None
    total, seconds = fastest
    found = {part: of / total for part, of in seconds.items()}
    return found | {"rest": 1.0 - sum(found.values())}


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Sum the seconds that the functions of each part take inside the block."""
    seconds = dict.fromkeys(PARTS, 0.0)
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for part, modules in PARTS.items():
            for name, functions in modules.items():
                module = import_module(f"cudeform.cpu.{name}")
                for function in functions:
                    original = getattr(module, function)
                    replaced.append((module, function, original))
                    setattr(module, function, _timing(original, part, seconds))
        yield seconds
    finally:
        for module, function, original in replaced:
            setattr(module, function, original)


def _timing(function: Callable[..., Any], part: str, seconds: dict[str, float]) -> Any:
    def timed(*arguments: Any) -> Any:
        started = time.thread_time()
        try:
            return function(*arguments)
        finally:
            seconds[part] += time.thread_time() - started

    return timed
