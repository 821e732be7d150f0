"""The tests import the benchmark from the checkout, because it is not part of the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cudeform.commands import bench

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path.append(str(BENCHMARKS))


@pytest.fixture(autouse=True)
def _benchmark_of_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command find the benchmark, even where the tests run with an installed package."""
    monkeypatch.setattr(bench, "FOLDER", BENCHMARKS)
