"""Plans are held up to a number and a length, whichever thread asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_engine import forward
from support.gpu_plans import COLUMNS, planned

from cudeform.gpu.replay import launch_plans
from cudeform.gpu.replay.launch_plans import LaunchPlan, PlanCache

pytestmark = needs_compiler


def test_the_oldest_plan_goes() -> None:
    store = PlanCache(capacity=2)
    one, two, three = (LaunchPlan((), 0, memory_limited=False) for _ in range(3))
    store.put("one", one)
    store.put("two", two)
    assert store.get("one") is one
    store.put("three", three)
    assert store.get("two") is None
    assert store.get("one") is one
    assert store.get("three") is three
    assert len(store) == 2
    store.clear()
    assert len(store) == 0


def test_a_plan_of_very_many_steps_is_not_held() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store, mock.patch.object(launch_plans, "MAX_STEPS", 4):
        forward(device, case)
        assert len(store) == 0  # five: weight, images, columns and two products
        wanted = forward(HostDevice(), case)
        assert forward(device, case).tobytes() == wanted.tobytes()
    with planned() as store, mock.patch.object(launch_plans, "MAX_STEPS", 5):
        forward(device, case)
        assert len(store) == 1


def test_many_threads_ask_at_a_time() -> None:
    store = PlanCache(capacity=8)

    def use(thread: int) -> None:
        for i in range(2000):
            key = (thread * i) % 20
            if store.get(key) is None:
                store.put(key, LaunchPlan((), 0, memory_limited=False))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert len(store) == 8
