"""The overhead of a call with tensors: the number of Python calls, and its benchmark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.torchcases import torch

import cudeform
from cudeform import engine

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "torch_overhead.py"


def python_calls(function: Callable[[], Any]) -> int:
    """How many Python functions a warmed-up call runs."""
    for _ in range(2):
        function()
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize(("records", "most"), [(False, 60), (True, 70)])
def test_a_call_runs_few_python_functions(
    monkeypatch: pytest.MonkeyPatch, records: bool, most: int
) -> None:
    """Each costs a tenth of a microsecond and more; the engine is left out."""
    monkeypatch.setattr(engine, "forward", lambda *_: None)
    shapes = (1, 1, 8, 8), (1, 2, 8, 8), (1, 1, 1, 1)
    tensors = [torch.ones(shape, requires_grad=records) for shape in shapes]
    assert python_calls(lambda: cudeform.deform_conv2d(*tensors)) < most


def test_the_benchmark_runs() -> None:
    command = [sys.executable, str(SCRIPT), "--calls", "1", "--rounds", "1"]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("torch: forward and backward") == 2
