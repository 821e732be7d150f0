"""A CuPy that only writes down what it is asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from support.cupy_calls import FakeCupy

from cudeform.gpu.cuda import device, prepared_launch


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCupy]:
    """A CuPy that only writes down what it is asked."""
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    caches = (device._properties, prepared_launch._compiled, prepared_launch._allow_shared)
    monkeypatch.setattr(device, "_thread", device._Thread())
    for cache in caches:
        cache.cache_clear()
    yield fake
    for cache in caches:
        cache.cache_clear()
