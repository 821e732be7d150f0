"""The command line: the commands, and the output of `info`."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cudeform.__main__ import COMMANDS, main
from cudeform.commands import gpus, info
from cudeform.commands.gpus import Gpus
from cudeform.commands.info import AVX512, Blas, Loops, Machine, avx512_remarks, note
from cudeform.family import OPERATORS

HASWELL = Blas("openblas", "0.3.31", "numpy", "Haswell", 2)
SKYLAKEX = Blas("openblas", "0.3.31", "numpy", "SkylakeX", 2)
LOOPS = Loops("9.9", Path("/a/folder"))
MACHINE = Machine("a processor", 2, (HASWELL,), {"OMP_NUM_THREADS": "2"}, ())


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


def test_without_a_command_help_is_printed_and_the_status_is_2():
    done = python("-m", "cudeform")
    assert done.returncode == 2
    assert all(name in done.stderr for name in COMMANDS)


def test_an_unknown_command_is_an_error_in_words(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["benhc"])
    assert stop.value.code == 2
    assert "benhc" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("cudeform ")


def test_only_the_command_that_was_asked_for_is_imported():
    code = (
        "import sys; from cudeform.__main__ import main; main(['info']); "
        "assert 'cudeform.commands.info' in sys.modules; "
        "others = {'cudeform.commands.bench', 'cudeform.commands.demo', 'matplotlib', 'tqdm'}; "
        "assert not others & set(sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_info_names_the_blas_and_says_what_works():
    done = python("-m", "cudeform", "info")
    assert done.returncode == 0, done.stderr
    # Other tests may have loaded more libraries into this process than `info` loads into its own.
    mine = [blas.title for blas in info.blas_libraries() if blas.owner == "numpy"]
    assert all(title in done.stdout for title in mine)
    assert "kernel set" in done.stdout
    assert "NumPy arrays, on the CPU: a small convolution came out right" in done.stdout


def test_info_tells_the_version_of_torch_without_importing_it(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise RuntimeError('torch was imported')")
    (tmp_path / "torch-9.9.dist-info").mkdir()
    (tmp_path / "torch-9.9.dist-info/METADATA").write_text("Name: torch\nVersion: 9.9\n")
    (tmp_path / "torch-9.9.dist-info/top_level.txt").write_text("torch\n")
    done = python("-m", "cudeform", "info", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "9.9" in done.stdout
    assert python("-c", "import torch", PYTHONPATH=str(tmp_path)).returncode != 0  # it would show


def test_avx512_that_is_not_used_is_remarked_with_the_remedy():
    (remark,) = avx512_remarks([*AVX512, "sse2"], [HASWELL], {})
    assert "Haswell" in remark
    assert "Set OPENBLAS_CORETYPE=SkylakeX" in remark


def test_avx512_that_the_environment_forbids_is_remarked_with_another_remedy():
    (remark,) = avx512_remarks(AVX512, [HASWELL], {"OPENBLAS_CORETYPE": "haswell"})
    assert "OPENBLAS_CORETYPE=haswell in the environment asks for them: remove it" in remark
    assert "SkylakeX" not in remark


@pytest.mark.parametrize(
    ("flags", "blas"),
    [
        (AVX512, SKYLAKEX),
        (AVX512, Blas("openblas", "0.3.31", "numpy", "Cooperlake", 2)),
        (AVX512, Blas("openblas", "9.9", "numpy", "a kernel set to come", 2)),
        (AVX512, Blas("openblas", "0.3.31", "numpy")),  # whose kernels are not known
        (AVX512, Blas("mkl", "2026.0", "numpy", "Haswell", 2)),  # the remedy is not for MKL
        (AVX512 - {"avx512vl"}, HASWELL),  # SkylakeX kernels would crash here
        ({"avx2", "fma"}, HASWELL),
        ((), HASWELL),
    ],
)
def test_no_remark_where_there_is_nothing_to_change(flags, blas):
    assert list(avx512_remarks(flags, [blas], {})) == []


def test_every_blas_is_looked_at():
    assert len(list(avx512_remarks(AVX512, [SKYLAKEX, HASWELL, HASWELL], {}))) == 2


def test_the_note_ends_with_what_to_do():
    well = note(MACHINE, LOOPS, {"numpy": "2.0"}, Gpus("no CuPy installed"), works=True)
    assert well.endswith("To do\n  - nothing")
    assert "no CuPy installed" in well
    assert "OMP_NUM_THREADS=2" in well
    machine = replace(MACHINE, remarks=("Eat less.",))
    assert note(machine, LOOPS, {}, Gpus(""), works=True).endswith("To do\n  - Eat less.")
    both = note(machine, LOOPS, {}, Gpus("", remarks=("Sleep more.",)), works=True)
    assert both.endswith("To do\n  - Eat less.\n  - Sleep more.")


def test_the_note_tells_where_compiled_loops_are_kept():
    said = note(MACHINE, LOOPS, {}, Gpus(""), works=True)
    assert "compiled by Numba 9.9, cached in /a/folder" in said
    said = note(MACHINE, Loops("9.9"), {}, Gpus(""), works=True)
    assert "not cached" in said
    assert "NUMBA_CACHE_DIR" in said.partition("To do")[2]


def test_without_numba_the_note_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(info.Loops, "here", lambda: Loops(None, failure="Install Numba."))
    assert main(["info"]) == 1
    works, todo = capsys.readouterr().out.partition("Works")[2].split("To do")
    assert "NumPy arrays, on the CPU: not here" in works
    assert "- Install Numba." in todo
    assert "came out wrong" not in todo


def test_the_note_names_the_arrays_that_work():
    said = note(MACHINE, LOOPS, {"torch": "9.9"}, Gpus("", outcome="as it should"), works=True)
    assert "PyTorch tensors, on the CPU: by the same engine, not tried here" in said
    assert "JAX arrays" not in said
    assert "CuPy arrays, on a GPU: as it should" in said


def test_the_note_names_the_operators():
    works = note(MACHINE, LOOPS, {}, Gpus(""), works=True).partition("Works")[2]
    assert "operators, on a CPU or a GPU: " + ", ".join(OPERATORS) in " ".join(works.split())


def test_lines_of_the_note_fit_a_terminal():
    facts = tuple(f"fact number {number}" for number in range(20))
    said = note(
        MACHINE, LOOPS, {f"library{n}": "1.2.3" for n in range(20)}, Gpus("", facts), works=True
    )
    assert max(map(len, said.splitlines())) <= 88


def test_the_note_does_not_hide_a_wrong_result(monkeypatch, capsys):
    monkeypatch.setattr(info, "small_call_is_right", lambda xp: False)
    assert main(["info"]) == 1
    assert "A small convolution came out wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("runtime", "sentence"),
    [
        ("def getDeviceCount(): raise OSError('no driver')", "CuPy finds no GPU: no driver"),
        ("def getDeviceCount(): return 0", "CuPy finds no GPU"),
        (
            "def getDeviceCount(): return 2\n"
            "def getDeviceProperties(device): return {'name': b'GPU %d' % device}",
            "GPU 0, GPU 1",
        ),
    ],
)
def test_what_is_said_about_the_gpu(tmp_path, runtime, sentence):
    (tmp_path / "cupy/cuda").mkdir(parents=True)
    (tmp_path / "cupy/__init__.py").write_text("from cupy import cuda")
    (tmp_path / "cupy/cuda/__init__.py").write_text("from cupy.cuda import runtime")
    (tmp_path / "cupy/cuda/runtime.py").write_text(runtime)
    done = python(
        "-c", "from cudeform.commands import info; print(info.gpu())", PYTHONPATH=str(tmp_path)
    )
    assert done.stdout.strip() == sentence, done.stderr


def raises(xp):
    raise OSError("no compiler")


@pytest.mark.parametrize(
    ("small_call_is_right", "outcome", "works"),
    [
        (lambda xp: xp == "cupy", "a small convolution came out right", True),
        (lambda xp: xp != "cupy", "a small convolution came out wrong", False),
        (raises, "a small convolution failed: no compiler", False),
    ],
)
def test_a_small_call_is_tried_on_the_gpu(monkeypatch, small_call_is_right, outcome, works):
    monkeypatch.setattr(gpus, "usable_cupy", lambda: "cupy")
    here = Gpus.here(small_call_is_right)
    assert (here.outcome, here.works) == (outcome, works)
    assert works == (not here.remarks)


@pytest.mark.parametrize("driver", [True, False])
def test_a_gpu_without_cupy_is_something_to_do(monkeypatch, tmp_path, driver):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(gpus, "find_spec", lambda name: None)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path if driver else tmp_path / "none")
    here = Gpus.here(lambda xp: True)
    assert here.works
    assert "pip install 'cudeform[cuda13]'" in (here.remarks[0] if driver else here.outcome)
    assert driver == bool(here.remarks)
