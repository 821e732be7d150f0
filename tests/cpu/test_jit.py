"""Compilation of the loops: one message, the cache on disk, and the error without Numba."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cudeform.cpu.loops import jit, lock
from cudeform.cpu.loops.jit import Loop

TRANSPOSE = """
import numpy as np
from cudeform.cpu.loops.transposition import transpose
source, target = np.arange(6, dtype="f4"), np.zeros(6, "f4")
transpose(source, 0, 3, target, 0, 2, 2, 3)
assert (target.reshape(3, 2) == source.reshape(2, 3).T).all()
"""
CONVOLVE = """
import numpy as np, cudeform
cudeform.deform_conv2d(np.ones((1, 1, 2, 2)), np.zeros((1, 2, 2, 2)), np.ones((1, 1, 1, 1)))
"""


def run(*words: str, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def terminal(code: str, **environment: str) -> str:
    """What a script writes to a terminal that its stderr is."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=follower, env=os.environ | environment
    ) as process:
        os.close(follower)
        said = b""
        try:
            while part := os.read(leader, 4096):
                said += part
        except OSError:  # Linux's way to say that nobody writes any more
            pass
        assert process.wait() == 0, said
    os.close(leader)
    return said.decode()


def test_compiling_is_said_once_on_a_terminal_and_done_once(tmp_path: Path) -> None:
    first = terminal(TRANSPOSE, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.count("compiling loops for this processor") == 1
    assert str(tmp_path) in first
    assert list(tmp_path.rglob("*.nbc"))
    assert terminal(TRANSPOSE, NUMBA_CACHE_DIR=str(tmp_path)) == ""


def test_where_stderr_is_no_terminal_nothing_is_said(tmp_path: Path) -> None:
    done = run("-c", TRANSPOSE, NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_written_is_named_once_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    environment = {"HOME": str(file), "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}
    done = run("-c", TRANSPOSE, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning: cudeform cannot cache its compiled loops") == 1
    assert "set NUMBA_CACHE_DIR to a writable folder" in done.stderr


def twice(array: Any) -> Any:
    return array[0] + array[0]


CONVOLVE_ON_A_FULL_DISK = """
import signal, numpy as np, cudeform
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
image, offset, weight = np.ones((1, 2, 4, 4)), np.zeros((1, 2, 4, 4)), np.ones((3, 2, 1, 1))
output = cudeform.deform_conv2d(image, offset, weight)
cudeform.deform_conv2d_backward(output, image, offset, weight)
assert (output == 2).all()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_disk_that_fills_is_named_once(tmp_path: Path) -> None:
    done = run("-c", CONVOLVE_ON_A_FULL_DISK, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning: cudeform cannot cache its compiled loops") == 1


def test_a_full_disk_costs_a_warning_and_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def save(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", save)
    loop = Loop(twice, tmp_path)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert loop(np.ones(1)) == 2
    assert loop(np.ones(1, np.float32)) == 2  # compiled again, and nothing is said again


def test_a_loop_is_compiled_with_its_lock_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held, loop = [], Loop(twice, tmp_path)

    @contextmanager
    def note(path: Path) -> Iterator[None]:
        assert not list(tmp_path.rglob("*.nbc"))
        yield
        assert list(tmp_path.rglob("*.nbc"))
        held.append(path)

    monkeypatch.setattr(jit.lock, "held", note)
    assert loop(np.ones(1)) == loop(np.ones(1)) == 2
    assert [path.parent for path in held] == [tmp_path]


HOLD = """
import sys, pathlib
from cudeform.cpu.loops.lock import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs the locks of POSIX")
def test_a_lock_is_waited_for_while_its_process_lives_and_not_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                process.kill()
                process.wait()

        monkeypatch.setattr(lock.time, "sleep", sleep)
        monkeypatch.setattr(lock, "LIMIT", 0.0)
        with lock.held(path):
            assert not slept
        monkeypatch.undo()
        monkeypatch.setattr(lock.time, "sleep", sleep)
        with lock.held(path), path.open() as again:
            assert len(slept) == 3
            fcntl = pytest.importorskip("fcntl")
            with pytest.raises(BlockingIOError):
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_cannot_be_had_stops_nothing(tmp_path: Path) -> None:
    with lock.held(tmp_path / "missing" / "lock"):
        pass


def test_the_folder_follows_the_text_of_the_loops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = jit._fingerprint()
    copy = shutil.copytree(Path(jit.__file__).parent, tmp_path / "loops")
    monkeypatch.setattr(jit, "__file__", str(copy / "jit.py"))
    assert jit._fingerprint() == before
    for path in (copy / "vectors.py", copy / "sums" / "gather.py"):
        before = jit._fingerprint()
        with path.open("a") as file:
            file.write("# changed\n")
        assert jit._fingerprint() != before


@pytest.fixture
def without_numba(tmp_path: Path) -> dict[str, str]:
    """An environment whose Numba does not know its Python."""
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs Python 3.9 or less')")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


def test_without_numba_a_call_says_what_is_missing(without_numba: dict[str, str]) -> None:
    done = run("-c", CONVOLVE, **without_numba)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: cudeform computes on the CPU with Numba")
    assert "Numba needs Python 3.9 or less" in last
    assert "pip install -U numba" in last
    assert "arrays on a GPU need no Numba" in last


def test_without_numba_all_but_the_cpu_engine_can_be_imported(
    without_numba: dict[str, str],
) -> None:
    code = "import cudeform, cudeform.gpu, cudeform.inspect, cudeform.interop.numpy"
    done = run("-c", code, **without_numba)
    assert done.returncode == 0, done.stderr


def test_without_numba_info_says_so(without_numba: dict[str, str]) -> None:
    done = run("-m", "cudeform", "info", **without_numba)
    assert done.returncode == 1
    assert "NumPy arrays, on the CPU: not here" in done.stdout
    assert done.stderr == ""
