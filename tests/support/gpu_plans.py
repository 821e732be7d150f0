"""Calls of the tests of launch plans, and a store of plans of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from cases import build

from cudeform import gpu
from cudeform.gpu.replay import launch_plans
from cudeform.gpu.replay.launch_plans import PlanCache

COLUMNS = build(
    "columns", channels=8, size=(9, 8), out_channels=6, groups=2, offset_groups=2, batch=3
)
DIRECT = build("direct", channels=16, size=(6, 5), out_channels=16, groups=16, batch=2)
WIDE = build("wide", channels=32, size=(6, 5), out_channels=4, offset_groups=2)
FUSED = build("fused", channels=32, size=(6, 5), out_channels=32, batch=1)


@contextmanager
def planned(store: PlanCache | None = None) -> Iterator[PlanCache]:
    """Send the engine's calls through plans, held in a store of their own."""
    store = PlanCache() if store is None else store
    ways = {name: partial(gpu.run, getattr(gpu, name)) for name in ("forward", "backward")}
    with mock.patch.multiple(gpu, **ways), mock.patch.object(launch_plans, "PLANS", store):
        yield store


def bits(results: dict[str, Any]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in results.items()}
