"""The overhead of a call under ``jax.jit``, compared with a jitted function that does little.

    python benchmarks/jax_overhead.py [--calls 2000] [--json FILE]

The engine is replaced by a function that does nothing. The remaining time is that of dispatching a
compiled program with three arrays, of XLA's call into Python, and of making views of XLA's buffers.
"100 in a jit" is the time per call in a program with 100 calls. The functions take turns in every
round, so that the load of the machine affects all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cudeform
from cudeform import engine
from cudeform.interop.jax import bridge

IMAGE = jnp.ones((1, 1, 8, 8))
OFFSET = jnp.zeros((1, 2, 8, 8))
WEIGHT = jnp.ones((1, 1, 1, 1))
IN_A_JIT = 100

Samples = dict[str, list[float]]


def bare(image: Any, offset: Any, weight: Any) -> Any:
    return image + offset[:, :1] + weight


def deform(image: Any, offset: Any, weight: Any) -> Any:
    return cudeform.deform_conv2d(image, offset, weight)


def repeated(function: Callable[..., Any], times: int) -> Callable[..., Any]:
    def many(image: Any, offset: Any, weight: Any) -> Any:
        for _ in range(times):
            image = function(image, offset, weight)
        return image

    return many


def timed(functions: dict[str, Callable[[], Any]], calls: int, rounds: int = 15) -> Samples:
    """Microseconds per call of each function, one sample per round; the functions take turns."""
    times: Samples = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            per_run = IN_A_JIT if name.startswith(str(IN_A_JIT)) else 1
            runs = calls // per_run
            start = time.perf_counter()
            for _ in range(runs):
                function()
            seconds = time.perf_counter() - start
            times[name].append(round(1e6 * seconds / (runs * per_run), 2))
    return times


def compiled(function: Callable[..., Any]) -> Callable[[], Any]:
    jitted = jax.jit(function)
    jitted(IMAGE, OFFSET, WEIGHT).block_until_ready()
    return lambda: jitted(IMAGE, OFFSET, WEIGHT).block_until_ready()


def candidates() -> dict[str, Callable[[], Any]]:
    functions = {"bare jit": compiled(bare)}
    for name in ("buffer", "ffi"):
        with bridge(name):
            functions[f"jit, {name} bridge"] = compiled(deform)
            many = compiled(repeated(deform, IN_A_JIT))
            functions[f"{IN_A_JIT} in a jit, {name} bridge"] = many
    functions["outside of jit"] = lambda: deform(IMAGE, OFFSET, WEIGHT).block_until_ready()
    return functions


def measured(calls: int) -> dict[str, Samples]:
    """All samples, with the engine and with a function that does nothing in its place."""
    arrays = [np.asarray(array) for array in (IMAGE, OFFSET, WEIGHT)]
    numpy = {"NumPy arrays": lambda: cudeform.deform_conv2d(*arrays)}
    whole = timed(numpy | {"jit, buffer bridge": compiled(deform)}, calls)
    functions = candidates() | numpy
    forward, engine.forward = engine.forward, lambda *args: None  # type: ignore[assignment]
    try:
        return {"without the engine": timed(functions, calls), "with the engine": whole}
    finally:
        engine.forward = forward


def show(samples: Samples) -> None:
    medians = {name: statistics.median(each) for name, each in samples.items()}
    for name, microseconds in medians.items():
        over_bare = ""
        if name.startswith("jit") and "bare jit" in medians:
            over_bare = f"  (+{microseconds - medians['bare jit']:.1f})"
        print(f"  {name:28s} {microseconds:7.1f}{over_bare}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write every sample into this file")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}; medians, microseconds a call")
    results = measured(arguments.calls)
    for title, samples in results.items():
        print(f"{title}:")
        show(samples)
    if arguments.json:
        report = {
            "command": " ".join(["python", *sys.argv]),
            "date": str(datetime.now(UTC).replace(microsecond=0)),
            "versions": {"cudeform": cudeform.__version__, "jax": jax.__version__},
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "microseconds a call": results,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
