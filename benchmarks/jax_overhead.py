"""What a call costs under jit beside what the engine itself takes, and beside a bare jit.

python benchmarks/jax_overhead.py [--calls 2000]

The engine is replaced by a function that does nothing, so what is left is the way to it: dispatch
of a compiled program of three arrays, XLA's call into Python, and the views of its buffers. "100 in
a jit" is the cost of one more call inside a program that makes 100 of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
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


def timed(functions: dict[str, Callable[[], Any]], calls: int, rounds: int = 9) -> dict[str, float]:
    """Microseconds a call, the median of some rounds in which the functions take turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: statistics.median(each) for name, each in times.items()}


def compiled(function: Callable[..., Any]) -> Callable[[], Any]:
    jitted = jax.jit(function)
    jitted(IMAGE, OFFSET, WEIGHT).block_until_ready()
    return lambda: jitted(IMAGE, OFFSET, WEIGHT).block_until_ready()


def candidates() -> dict[str, Callable[[], Any]]:
    functions = {"bare jit": compiled(bare)}
    for name in ("buffer", "ffi"):
        with bridge(name):
            functions[f"jit, {name} bridge"] = compiled(deform)
            functions[f"100 in a jit, {name} bridge"] = compiled(repeated(deform, 100))
    functions["outside of jit"] = lambda: deform(IMAGE, OFFSET, WEIGHT).block_until_ready()
    return functions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    calls = parser.parse_args().calls
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}")

    arrays = [np.asarray(array) for array in (IMAGE, OFFSET, WEIGHT)]
    numpy = {"NumPy arrays": lambda: cudeform.deform_conv2d(*arrays)}
    jitted = {"jit, buffer bridge": compiled(deform)}
    whole = timed(numpy | jitted, calls)

    functions = candidates()
    forward, engine.forward = engine.forward, lambda *args: None  # type: ignore[assignment]
    times = {}
    for name, function in functions.items():
        share = 100 if name.startswith("100") else 1
        times |= {n: t / share for n, t in timed({name: function}, calls // share).items()}
    engine.forward = forward

    print("the engine left out, microseconds a call:")
    for name, microseconds in times.items():
        more = "" if name.startswith("100") else f"  (+{microseconds - times['bare jit']:.1f})"
        print(f"  {name:28s} {microseconds:7.1f}{more}")
    print("with the engine, on an image of 8x8:")
    for name, microseconds in whole.items():
        print(f"  {name:28s} {microseconds:7.1f}")


if __name__ == "__main__":
    main()
