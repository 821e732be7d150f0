"""A cache of launch plans for each test."""

from __future__ import annotations

import pytest

from cudeform.gpu.replay import launch_plans
from cudeform.gpu.replay.launch_plans import PlanCache


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> PlanCache:
    """The plans that the test's calls make, and no others."""
    cache = PlanCache()
    monkeypatch.setattr(launch_plans, "PLANS", cache)
    return cache
