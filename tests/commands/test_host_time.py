"""The script that measures the host time of a GPU call runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from checks import needs_compiler

pytestmark = needs_compiler


def test_the_script_that_measures_the_host() -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "host_time.py"
    command = [sys.executable, str(script), "--calls", "1"]
    done = subprocess.run(command, text=True, capture_output=True, check=True, timeout=120)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["A1", "A4", "B1", "C2", "C4"]
    assert done.stdout.count("deterministic backward") == 5
