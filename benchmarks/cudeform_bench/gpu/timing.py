"""Timing on a GPU: by the GPU's clock, in turns, with a warm and with a cold cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

LEAST_REPEATS, MOST_REPEATS = 5, 200
HOST_REPEATS = 30

# While the host queues a call, a spinning kernel keeps the GPU busy for BUSY times the host time of
# the call. LEAST_BUSY covers the host's work around a call. MOST_BUSY limits it on slow hosts.
BUSY, LEAST_BUSY, MOST_BUSY = 2.0, 3e-4, 0.05

Call = Callable[[], Any]


class Clock(Protocol):
    """The GPU operations that timing needs, all queued on one stream."""

    def flush(self) -> None:
        """Queue work that evicts everything from the L2 cache."""

    def occupy(self, seconds: float) -> None:
        """Queue work that takes about ``seconds`` and accesses no memory."""

    def record(self) -> Any:
        """Queue an event."""

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Time between two events, after ``wait``."""

    def wait(self) -> None:
        """Wait until all queued work is done."""

    def reset_peak(self) -> int:
        """Reset the peak of the memory in use; return the bytes in use."""

    def peak(self) -> int:
        """Peak of the bytes in use since the reset."""


@dataclass
class Samples:
    """Times of one contestant.

    Attributes:
        warm_ms: GPU times with the operands in the L2 cache, as far as they fit.
        cold_ms: GPU times after a flush of the cache.
        host_us: host times until the call returns.
    """

    warm_ms: list[float] = field(default_factory=list)
    cold_ms: list[float] = field(default_factory=list)
    host_us: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float, float]:
        """Medians of the three kinds of times."""
        return median(self.warm_ms), median(self.cold_ms), median(self.host_us)


def measure_in_turns(clock: Clock, calls: dict[str, Call], seconds: float) -> dict[str, Samples]:
    """Time all calls in turns, repeatedly, after an untimed first round.

    ``seconds`` limits the repeats on the GPU's clock, and likewise those on the host's clock. The
    GPU is kept busy while a call is queued, so the time between its events includes no host time.
    """
    for call in calls.values():
        call()
    clock.wait()
    busy = {name: _busy(clock, call) for name, call in calls.items()}
    samples = {name: Samples() for name in calls}
    for _ in _repeats(MOST_REPEATS, seconds):
        for name, call in calls.items():
            call()  # loads the operands into the cache
            samples[name].warm_ms.append(_on_the_gpu(clock, call, busy[name]))
            clock.flush()
            samples[name].cold_ms.append(_on_the_gpu(clock, call, busy[name]))
    for _ in _repeats(HOST_REPEATS, seconds):
        for name, call in calls.items():
            samples[name].host_us.append(1e6 * _on_the_host(clock, call))
    return samples


def _repeats(most: int, seconds: float) -> Iterator[int]:
    """Count repeats until ``seconds`` have passed, at least LEAST_REPEATS and at most ``most``."""
    started = time.perf_counter()
    for repeat in range(most):
        if repeat >= LEAST_REPEATS and time.perf_counter() - started > seconds:
            return
        yield repeat


def workspace(clock: Clock, call: Call, nbytes: Callable[[Any], int]) -> int:
    """Peak memory of a call in bytes, without its results."""
    clock.wait()
    before = clock.reset_peak()
    results = call()
    clock.wait()
    return clock.peak() - before - nbytes(results)


def _busy(clock: Clock, call: Call) -> float:
    """Seconds for which to keep the GPU busy while a call is queued."""
    slowest = max(_on_the_host(clock, call) for _ in range(3))
    return min(max(BUSY * slowest, LEAST_BUSY), MOST_BUSY)


def _on_the_gpu(clock: Clock, call: Call, busy: float) -> float:
    clock.occupy(busy)
    first = clock.record()
    results = call()
    second = clock.record()
    clock.wait()
    del results  # freeing the results is not part of the call
    return clock.elapsed_ms(first, second)


def _on_the_host(clock: Clock, call: Call) -> float:
    clock.wait()
    started = time.perf_counter()
    results = call()
    elapsed = time.perf_counter() - started
    clock.wait()
    del results
    return elapsed
