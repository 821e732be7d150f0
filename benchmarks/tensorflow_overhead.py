"""The overhead of a call with TensorFlow's tensors, compared with NumPy arrays.

    python benchmarks/tensorflow_overhead.py [--calls 1000] [--json FILE]

The engine is replaced by a function that does nothing. Outside of ``tf.function`` the remaining
time is that of reading tensors and of allocating and lending the result. "An identity" has a
``tf.custom_gradient`` that does nothing, so its time is that of TensorFlow's own Python code. "100
in a function" is the time per call in a traced function with 100 calls, each the input of the next;
the difference to 100 additions is the cost of a node that runs Python. The functions take turns in
every round, so that the load of the machine affects all of them alike.
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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import cudeform
from cudeform import engine

tf.get_logger().setLevel("ERROR")  # it warns that functions are traced again, as they must be

IMAGE, OFFSET = np.ones((1, 1, 8, 8), np.float32), np.zeros((1, 2, 8, 8), np.float32)
ARRAYS = IMAGE, OFFSET, np.ones((1, 1, 1, 1), np.float32)
TENSORS = [tf.constant(array) for array in ARRAYS]
REPEATED = 100

Function = Callable[..., Any]
Samples = dict[str, list[float]]


def bare(image: Any, offset: Any, weight: Any) -> Any:
    return image + offset[:, :1] + weight


@tf.custom_gradient  # type: ignore[untyped-decorator]
def identity(image: Any, offset: Any, weight: Any) -> Any:
    return tf.identity(image), lambda grad: (grad, offset, weight)


def with_gradients(function: Function) -> Callable[[], Any]:
    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(TENSORS)
            output = function(*TENSORS)
        return tape.gradient(output, TENSORS)

    return both


def traced(function: Function, times: int = 1) -> Callable[[], Any]:
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def many(image: Any, offset: Any, weight: Any) -> Any:
        for _ in range(times):
            image = function(image, offset, weight)
        return image

    many(*TENSORS)
    return lambda: many(*TENSORS)


def candidates() -> dict[str, Callable[[], Any]]:
    call = cudeform.deform_conv2d
    return {
        "NumPy arrays": lambda: call(*ARRAYS),
        "eager": lambda: call(*TENSORS),
        "an identity, with gradients": with_gradients(identity),
        "eager, with gradients": with_gradients(call),
        "a function of additions": traced(bare),
        "a function": traced(call),
        f"{REPEATED} additions in a function": traced(bare, REPEATED),
        f"{REPEATED} in a function": traced(call, REPEATED),
    }


def timed(calls: int, rounds: int = 15) -> Samples:
    """Microseconds per call of each function, one sample per round; the functions take turns."""
    functions = candidates()
    times: Samples = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            per_run = REPEATED if name.startswith(str(REPEATED)) else 1
            runs = max(calls // per_run, 1)
            start = time.perf_counter()
            for _ in range(runs):
                function()
            seconds = time.perf_counter() - start
            times[name].append(round(1e6 * seconds / (runs * per_run), 2))
    return times


def measured(calls: int) -> dict[str, Samples]:
    """All samples, with the engine and with functions that do nothing in its place."""
    whole = timed(calls)
    forward, backward = engine.forward, engine.backward
    engine.forward = engine.backward = lambda *args: None  # type: ignore[assignment]
    try:
        return {"without the engine": timed(calls), "with the engine": whole}
    finally:
        engine.forward, engine.backward = forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write every sample into this file")
    arguments = parser.parse_args()
    print(f"tensorflow {tf.__version__}, CPU; medians, microseconds a call")
    results = measured(arguments.calls)
    for title, samples in results.items():
        print(f"{title}:")
        for name, each in samples.items():
            print(f"  {name:28s} {statistics.median(each):7.1f}")
    if arguments.json:
        report = {
            "command": " ".join(["python", *sys.argv]),
            "date": str(datetime.now(UTC).replace(microsecond=0)),
            "versions": {"cudeform": cudeform.__version__, "tensorflow": tf.__version__},
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "microseconds a call": results,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
