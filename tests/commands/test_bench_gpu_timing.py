"""Contestants on a GPU take turns, warm and cold, for the requested time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fake_gpu import FakeClock

from cudeform_bench.gpu import timing
from cudeform_bench.gpu.timing import measure_in_turns, workspace


def test_contestants_take_turns_warm_then_cold() -> None:
    clock, order = FakeClock(), []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = measure_in_turns(clock, calls, seconds=0.0)
    repeats = host = timing.LEAST_REPEATS
    # Once before all, and to see how long the host takes; each repeat fills the cache, then times
    # warm and cold.
    assert "".join(order) == "ab" + "aaabbb" + repeats * "aaabbb" + host * "ab"
    for taken in samples.values():
        assert taken.warm_ms == [1.0] * repeats
        assert taken.cold_ms == [3.0] * repeats
        assert len(taken.host_us) == host
    asked = [what for what in clock.done if what != "wait"]
    assert asked == ["occupy", "flush", "occupy"] * 2 * repeats


@pytest.mark.parametrize(("takes", "busy"), [(1e-6, 3e-4), (1e-3, 2e-3), (1.0, 0.05)])
def test_the_gpu_is_busy_for_longer_than_the_host(
    takes: float, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the time between two events would be the host's."""
    clock, now = FakeClock(), [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += takes

    measure_in_turns(clock, {"a": call}, seconds=0.0)
    assert clock.busy == pytest.approx(busy)


def test_repeats_end_with_the_time_or_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Iterator[float] = iter(range(10**6))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    samples = measure_in_turns(FakeClock(), {"a": lambda: None}, seconds=20.0)
    assert 15 <= len(samples["a"].warm_ms) <= 25
    samples = measure_in_turns(FakeClock(), {"a": lambda: None}, seconds=1e9)
    assert len(samples["a"].warm_ms) == timing.MOST_REPEATS


def test_workspace_is_what_is_held_beside_results() -> None:
    assert workspace(FakeClock(), lambda: "results", lambda results: 300) == 700
