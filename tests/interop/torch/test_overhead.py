"""The benchmark of what a call with tensors costs runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "torch_overhead.py"


def test_the_cost_of_a_call_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    command = [sys.executable, str(SCRIPT), "--calls", "20", "--rounds", "3", "--json", str(file)]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    times = json.loads(file.read_text())["times"]["the engine left out"]
    for library in ("NumPy", "torch"):
        assert {f"{library}: forward", f"{library}: forward and backward"} <= times.keys()
