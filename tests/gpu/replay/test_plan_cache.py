"""The cache of launch plans limits their number and length, for any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_engine import forward
from support.gpu_plans import COLUMNS

from cudeform.gpu.replay import launch_plans
from cudeform.gpu.replay.launch_plans import LaunchPlan, PlanCache


def test_the_least_recently_used_plan_makes_room() -> None:
    cache = PlanCache(capacity=2)
    one, two, three = (LaunchPlan((), 0) for _ in range(3))
    cache.put("one", one)
    cache.put("two", two)
    assert cache.get("one") is one
    cache.put("three", three)
    assert cache.get("two") is None
    assert cache.get("one") is one
    assert cache.get("three") is three
    assert len(cache) == 2
    cache.clear()
    assert len(cache) == 0


@needs_compiler
@pytest.mark.parametrize(("limit", "cached"), [(4, 0), (5, 1)])
def test_a_plan_of_very_many_steps_is_not_cached(
    plans: PlanCache, monkeypatch: pytest.MonkeyPatch, limit: int, cached: int
) -> None:
    monkeypatch.setattr(launch_plans, "MAX_STEPS", limit)
    case, device = COLUMNS.cast("float32"), HostDevice()
    wanted = forward(HostDevice(), case).tobytes()
    for _ in range(2):  # five steps: weight, images, columns and two products
        assert forward(device, case, planned=True).tobytes() == wanted
        assert len(plans) == cached


def test_many_threads_share_a_cache() -> None:
    cache = PlanCache(capacity=8)

    def use(thread: int) -> None:
        for i in range(2000):
            key = (thread * i) % 20
            if cache.get(key) is None:
                cache.put(key, LaunchPlan((), 0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert len(cache) == 8
