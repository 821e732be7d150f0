"""Ctrl-C ends a command with one line and status 130; a closed pipe ends it silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cudeform import __main__ as cli

ROOT = Path(__file__).resolve().parents[2]

# A step of the demo's progress bar, and the benchmark's first call: the work has begun.
BEGUN = {
    "demo": "from cudeform.commands import demo_registration as m; name = 'warp'",
    "bench": "from cudeform_bench.cpu import timing as m; name = 'time_in_turns'",
}
SCRIPT = """
import signal
import sys
# Ignored where a shell runs the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
from cudeform import __main__ as cli
from cudeform.commands import bench
bench.FOLDER = bench.Path({folder!r})
bench.benchmark()
{begun}
real = getattr(m, name)
def noisy(*arguments, **more):
    print("begun", flush=True)
    return real(*arguments, **more)
setattr(m, name, noisy)
cli.leave(cli.main({words!r}))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("words", [["demo", "--steps", "100000"], ["bench", "--seconds", "1000"]])
def test_ctrl_c_ends_a_command_with_one_line(words: list[str], tmp_path: Path) -> None:
    if words[0] == "demo":
        for library in ("matplotlib", "scipy", "tqdm"):
            pytest.importorskip(library)
    script = SCRIPT.format(begun=BEGUN[words[0]], words=words, folder=str(ROOT / "benchmarks"))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n", process.communicate(timeout=60)[1]
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert errors.endswith("\ninterrupted\n")
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_a_closed_pipe_ends_a_command_quietly() -> None:
    """As in ``python -m cudeform info | head -1``."""
    script = "from cudeform import __main__ as cli; cli.leave(cli.main(['info']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, timeout=120
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141


def test_main_gives_the_status(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    command = SimpleNamespace(add_arguments=lambda parser: None, run=interrupted)
    monkeypatch.setattr(cli, "import_module", lambda name: command)
    assert cli.main(["info"]) == cli.INTERRUPTED == 130
    assert capsys.readouterr().err.split() == ["interrupted"]
