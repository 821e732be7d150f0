"""Measurement on a CPU: checks the results of the contestants, then times them in turns."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping
from statistics import median

import numpy as np

from cudeform_bench.configs import Config
from cudeform_bench.cpu.contestants import Call, Results
from cudeform_bench.table import OURS, Measurement

# Largest difference allowed from the float64 result, relative to its largest element. Rounding
# gives 1e-6; an index that is wrong by one gives about 1.
TOLERANCE = 1e-4

LEAST_REPEATS, MOST_REPEATS = 3, 50

# A call shorter than this is made once, untimed, before each timing: its threads are then awake and
# its memory is mapped. Longer calls do not need this, and it would double the time of the run.
SHORT = 0.2


class WrongResult(Exception):
    """A contestant's result differs from the float64 result."""


def measure(
    config: Config,
    direction: str,
    calls: dict[str, Call],
    exact: Results,
    seconds: float,
    shares: Mapping[str, float],
) -> Measurement:
    """Check the results of all ``calls``, by contestant, against ``exact``; then time them.

    Raises:
        WrongResult: a result differs by more than rounding.
    """
    errors = {}
    for name, call in calls.items():
        errors[name] = largest_error(call(), exact)
        if not errors[name] <= TOLERANCE:  # also true if the error is NaN
            raise WrongResult(
                f"{name} is wrong at {config.name} {direction}: it differs from the float64 result "
                f"by {errors[name]:.2g} of its largest element, {TOLERANCE:g} is allowed; "
                "not timed"
            )
    samples = time_in_turns(calls, seconds)
    return Measurement(
        config=config,
        direction=direction,
        samples_ms={name: [1e3 * t for t in times] for name, times in samples.items()},
        median_ms={name: 1e3 * median(times) for name, times in samples.items()},
        errors=errors,
        workspace_mib=peak_workspace(calls[OURS]) / 2**20,
        shares=dict(shares),
    )


def largest_error(results: Results, exact: Results) -> float:
    """Largest difference of any array from the exact one, relative to its largest element."""
    errors = [
        np.abs(results[name] - expected).max() / (np.abs(expected).max() or 1.0)
        for name, expected in exact.items()
    ]
    return float(np.max(errors))


def time_in_turns(calls: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Time all calls repeatedly, in seconds; every repeat times each call once."""
    first = {name: _time(call) for name, call in calls.items()}  # warm-up, not among the samples
    samples: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for repeat in range(MOST_REPEATS):
        if repeat >= LEAST_REPEATS and time.perf_counter() - started > seconds:
            break
        for name, call in calls.items():
            _wait_for_idle_threads()
            if first[name] < SHORT:
                call()
            samples[name].append(_time(call))
    return samples


def _time(call: Call) -> float:
    started = time.perf_counter()
    results = call()
    elapsed = time.perf_counter() - started
    del results  # freeing the results is not part of the call
    return elapsed


def _wait_for_idle_threads() -> None:
    """Wait until the threads of the previous contestant sleep, at most half a second.

    The threads of a pool spin before they sleep: onnxruntime's for 30 ms, OpenBLAS's for 100 ms.
    While they spin, they occupy cores that the next contestant needs.
    """
    for _ in range(50):
        busy = time.process_time()
        time.sleep(0.01)
        if time.process_time() - busy < 0.001:
            return


def peak_workspace(call: Call) -> int:
    """Peak of the bytes that Python and NumPy allocate in a call, without its results."""
    tracemalloc.start()
    try:
        results = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak - sum(array.nbytes for array in results.values())
