"""The command line of ``python -m cudeform bench``: its errors, input and output."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cudeform.__main__ import main
from cudeform.commands import bench
from cudeform_bench import command
from cudeform_bench.configs import QUICK
from cudeform_bench.cpu import contestants
from cudeform_bench.cpu.report import Report

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """cudeform is the only contestant."""
    ours = {"cudeform": contestants.CONTESTANTS["cudeform"]}
    monkeypatch.setattr(contestants, "CONTESTANTS", ours)


@pytest.mark.usefixtures("alone")
def test_quick_runs_and_its_table_can_be_printed_again(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "results.json"
    assert main(["bench", "--quick", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert main(["bench", "--from", str(file)]) == 0
    assert capsys.readouterr().out == printed
    results = Report.from_json(file.read_text())
    assert results.threads is None
    assert [(m.config, m.direction) for m in results.measurements] == [
        (config, direction) for config in QUICK for direction in ("forward", "backward", "both")
    ]
    for measured in results.measurements:
        assert measured.workspace_mib > 0
        assert max(measured.errors.values()) < 1e-5


@pytest.mark.usefixtures("alone")
def test_choices(tmp_path: Path, capsys: Any) -> None:
    words = ["--config", "small", "--direction", "forward", "--offsets", "zero", "normal-1"]
    file = tmp_path / "results.json"
    chosen = [*words, "--quick", "--seconds", "0.001", "--threads", "2", "--json", str(file)]
    assert main(["bench", *chosen]) == 0
    assert "threads: 2\n" in capsys.readouterr().out
    results = Report.from_json(file.read_text())
    assert results.threads == 2
    assert [m.config.offsets for m in results.measurements] == ["zero", "normal-1"]
    assert {m.direction for m in results.measurements} == {"forward"}


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_results_of_the_repository_can_be_printed(file: Path, capsys: Any) -> None:
    assert main(["bench", "--from", str(file)]) == 0
    assert "Noise: " in capsys.readouterr().out


def test_a_checkout_needs_no_installation() -> None:
    words = [sys.executable, "-m", "cudeform", "bench", "--from", str(RESULTS[0])]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "geometric mean" in done.stdout


@pytest.mark.promise("honest")
def test_every_command_and_file_of_the_page_on_benchmarks_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    commands = re.findall(r"python -m cudeform bench([^`#\n]*)", page)
    assert len(commands) > 10
    for words in commands:
        if "--from" not in words and words.strip():
            command.refuse_useless(parser.parse_args(shlex.split(words)))
    folders = "benchmarks|cudeform|tests"
    files = re.findall(rf"\b(?:{folders})/[\w/]+\.(?:py|json)\b", page)
    assert len(files) > 5
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("words", [[], ["--quick"], ["--help"]])
def test_an_installed_package_says_where_the_benchmark_is(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert main(["bench", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "clone the repository of cudeform and run python -m cudeform bench" in said.err


FILE = str(RESULTS[0])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--mode", "fp16"], "--mode has no effect on a CPU; it needs --device gpu"),
        (["--path", "fused"], "--path has no effect on a CPU"),
        (["--path"], "--path has no effect on a CPU"),
        (["--scatter", "gather"], "--scatter has no effect on a CPU"),
        (["--deadline", "5"], "--deadline has no effect on a CPU"),
        (["--device", "cpu", "--mode", "fp32"], "--mode has no effect on a CPU"),
        (["--device", "gpu", "--threads", "2"], "--threads has no effect on a GPU"),
        (["--config", "E3", "--offsets", "zero"], "--offsets zero is not defined for E3"),
        (
            ["--device", "gpu", "--direction", "forward", "--scatter", "gather"],
            "--scatter has no effect without --direction backward",
        ),
        (["--from", FILE, "--quick"], "--quick has no effect with --from"),
        (["--from", FILE, "--json", "new.json"], "--json has no effect with --from"),
        (["--from", FILE, "--device", "cpu"], "--device has no effect with --from"),
    ],
)
def test_options_without_effect_are_refused(
    words: list[str], expected: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "CONTESTANTS", {})  # nothing may be measured
    assert (
        main(["bench", "--seconds", "1", *words] if FILE not in words else ["bench", *words]) == 2
    )
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"bench: {expected}")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--config", "A1", "A7"],
            "there is no configuration 'A7'; there are cpu, gpu, operators-cpu,",
        ),
        (["--threads", "0"], "--threads: must be a positive integer, got '0'"),
        (["--threads", "-1"], "--threads: must be a positive integer, got '-1'"),
        (["--seconds", "0"], "--seconds: must be a positive number of seconds, got '0'"),
        (["--seconds", "-1"], "--seconds: must be a positive number of seconds, got '-1'"),
        (["--seconds", "nan"], "--seconds: must be a positive number of seconds, got 'nan'"),
        (["--seconds", "soon"], "--seconds: must be a positive number of seconds, got 'soon'"),
        (["--deadline", "0"], "--deadline: must be a positive number of seconds, got '0'"),
        (["--path", "tiles"], "--path: invalid choice: 'tiles'"),
        (["--scatter", "tiles"], "--scatter: invalid choice: 'tiles'"),
        (["--from", "no-such-file.json"], "cannot read no-such-file.json: No such file"),
        (["--from", __file__], "holds no results of bench"),
    ],
)
def test_arguments_that_are_wrong_are_refused(words: list[str], expected: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("no/such/folder/results.json", "there is no folder no/such/folder"),
        (str(ROOT), "it is a folder"),
        ("", "a file's name is missing"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    file: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(contestants, "CONTESTANTS", {})  # nothing may be measured
    assert main(["bench", "--quick", "--json", file]) == 2
    assert capsys.readouterr().err == f"cannot write {file!r}: {why}\n"


@pytest.mark.usefixtures("alone")
def test_a_file_that_cannot_be_written_at_the_end_is_told_after_the_table(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    words = ["bench", "--quick", "--config", "small", "--direction", "forward"]
    assert main([*words, "--json", str(tmp_path / "results.json")]) == 2
    said = capsys.readouterr()
    assert "small" in said.out
    assert said.err.endswith("results.json': No space left on device\n")


@pytest.mark.usefixtures("alone")
def test_the_progress_bar_is_optional(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)  # import tqdm now raises ImportError
    assert main(["bench", "--quick", "--config", "small", "--direction", "forward"]) == 0
    assert "small" in capsys.readouterr().out
