"""How ``bench --device gpu`` measures: by the GPU's clock, in turns, cache cold and warm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

LEAST_REPEATS, MOST_REPEATS = 5, 200
HOST_REPEATS = 30

# The GPU is kept busy this many times as long as the host takes to queue a call, within bounds: the
# first is for what the host takes beside, the last for calls that the host itself bounds.
BUSY, LEAST_BUSY, MOST_BUSY = 2.0, 3e-4, 0.05

Call = Callable[[], Any]


class Clock(Protocol):
    """What measuring asks of a GPU; everything is queued on one stream."""

    def flush(self) -> None:
        """Queue work that pushes everything out of the second level of the cache."""

    def occupy(self, seconds: float) -> None:
        """Queue work that lasts about so long, and uses no memory."""

    def record(self) -> Any:
        """Queue a mark."""

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Time between two marks, after ``wait``."""

    def wait(self) -> None:
        """Wait until all that is queued is done."""

    def reset_peak(self) -> int:
        """Forget the peak of the memory in use; how much is in use now."""

    def peak(self) -> int:
        """Most memory in use since."""


@dataclass
class Samples:
    """Times of one contestant.

    Attributes:
        warm_ms: with operands in the cache, as far as they fit, on the GPU's clock.
        cold_ms: after the cache was flushed.
        host_us: until the call returned, on the host's clock.
    """

    warm_ms: list[float] = field(default_factory=list)
    cold_ms: list[float] = field(default_factory=list)
    host_us: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float, float]:
        """Of each."""
        return median(self.warm_ms), median(self.cold_ms), median(self.host_us)


def measure_in_turns(clock: Clock, calls: dict[str, Call], seconds: float) -> dict[str, Samples]:
    """Time all calls in turn, then the next repeat; the first round does not count.

    There are as many repeats as fit into ``seconds``, and as much time again for the host's clock.
    The GPU is kept busy while a call is queued, so that its marks do not wait for the host.
    """
    for call in calls.values():
        call()
    clock.wait()
    busy = {name: _busy(clock, call) for name, call in calls.items()}
    samples = {name: Samples() for name in calls}
    for _ in _repeats(MOST_REPEATS, seconds):
        for name, call in calls.items():
            call()  # its operands are in the cache now, as far as they fit
            samples[name].warm_ms.append(_on_the_gpu(clock, call, busy[name]))
            clock.flush()
            samples[name].cold_ms.append(_on_the_gpu(clock, call, busy[name]))
    for _ in _repeats(HOST_REPEATS, seconds):
        for name, call in calls.items():
            samples[name].host_us.append(1e6 * _on_the_host(clock, call))
    return samples


def _repeats(most: int, seconds: float) -> Iterator[int]:
    """Numbers of repeats, until the time is up but a few at the least."""
    started = time.perf_counter()
    for repeat in range(most):
        if repeat >= LEAST_REPEATS and time.perf_counter() - started > seconds:
            return
        yield repeat


def workspace(clock: Clock, call: Call, nbytes: Callable[[Any], int]) -> int:
    """Bytes held at a time during a call, less those of its results."""
    clock.wait()
    before = clock.reset_peak()
    results = call()
    clock.wait()
    return clock.peak() - before - nbytes(results)


def _busy(clock: Clock, call: Call) -> float:
    """Seconds for which the GPU shall be busy while a call is queued."""
    slowest = max(_on_the_host(clock, call) for _ in range(3))
    return min(max(BUSY * slowest, LEAST_BUSY), MOST_BUSY)


def _on_the_gpu(clock: Clock, call: Call, busy: float) -> float:
    clock.occupy(busy)
    first = clock.record()
    results = call()
    second = clock.record()
    clock.wait()
    del results  # only now: giving memory back is not part of the call
    return clock.elapsed_ms(first, second)


def _on_the_host(clock: Clock, call: Call) -> float:
    clock.wait()
    started = time.perf_counter()
    results = call()
    elapsed = time.perf_counter() - started
    clock.wait()
    del results
    return elapsed
