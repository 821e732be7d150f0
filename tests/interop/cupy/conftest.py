"""A stand-in for CuPy without a GPU, which logs calls or computes on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hostcuda import HostDevice
from support.cupy_cuda import HostCuda, RecordedCuda, installed
from support.cupy_stand_in import CupyStandIn


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedCuda]:
    """What the CuPy of a test writes down."""
    backend = RecordedCuda()
    with installed(backend, monkeypatch):
        yield backend


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[CupyStandIn]:
    """A CuPy whose GPU is the CPU."""
    with installed(HostCuda(HostDevice()), monkeypatch) as stand_in:
        yield stand_in
