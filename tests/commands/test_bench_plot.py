"""The picture of benchmark results, from a CPU and from a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
RESULTS = [
    path
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    if "measurements" in json.loads(path.read_text(encoding="utf-8"))
]


@pytest.fixture(scope="module")
def plot() -> Any:
    spec = importlib.util.spec_from_file_location("plot", ROOT / "benchmarks" / "plot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plot"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def gpu_report() -> dict[str, Any]:
    """Made-up numbers."""

    def measured(name: str, mode: str, direction: str, offsets: str) -> dict[str, Any]:
        cold = {"cudeform": 1.0, "torchvision": 9.0, "path im2col": 2.0}
        if name == "C4":
            del cold["torchvision"]
        warm = {contestant: ms / 2 for contestant, ms in cold.items()}
        return {
            "config": {"name": name, "offsets": offsets},
            "mode": mode,
            "direction": direction,
            "median_ms": {"cold": cold, "warm": warm},
        }

    return {
        "gpu": "no GPU",
        "date": "never",
        "measurements": [
            measured(name, mode, direction, "normal-2")
            for mode in ("fp32", "fp16")
            for direction in ("forward", "both")
            for name in ("A1", "C4")
        ],
    }


def test_a_group_for_each_configuration(plot: Any) -> None:
    rows = plot.panels(gpu_report(), "cold", None, forced=False)
    assert [[bars.title for bars in row] for row in rows] == [
        ["fp32, forward", "fp32, forward and backward"],
        ["fp16, forward", "fp16, forward and backward"],
    ]
    for bars in (bars for row in rows for bars in row):
        assert bars.groups == ["A1", "C4"]
        assert bars.times == {"cudeform": [1.0, 1.0], "torchvision": [9.0, None]}


def test_what_is_asked_for_is_drawn(plot: Any) -> None:
    [row] = plot.panels(gpu_report(), "warm", ["fp16"], forced=True)
    assert row[0].times["path im2col"] == [1.0, 1.0]
    report = gpu_report()
    report["measurements"][0]["config"]["offsets"] = "zero"
    [row] = plot.panels(report, "cold", ["fp32"], forced=False)
    assert row[0].groups == ["A1\nzero", "C4\nnormal-2"]


def test_bars_are_as_high_as_the_times(plot: Any) -> None:
    figure = plot.draw(plot.panels(gpu_report(), "cold", ["fp32"], forced=False), "title")
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert sorted(bar.get_height() for bar in axes.patches) == [1.0, 1.0, 9.0]
    centres = sorted(bar.get_x() + bar.get_width() / 2 for bar in axes.patches)
    assert [round(centre) for centre in centres] == [0, 0, 1]


@pytest.mark.parametrize("file", [*RESULTS, None], ids=lambda file: file.name if file else "a GPU")
def test_a_file_becomes_a_picture(plot: Any, tmp_path: Path, file: Path | None) -> None:
    if file is None:
        file = tmp_path / "gpu.json"
        file.write_text(json.dumps(gpu_report()), encoding="utf-8")
    picture = tmp_path / "plot.png"
    plot.main([str(file), "-o", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_another_file_is_refused(plot: Any, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"times": {}}', encoding="utf-8")
    with pytest.raises(SystemExit):
        plot.main([str(file), "-o", str(tmp_path / "plot.png")])
    assert "holds no results of bench" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--forced"], ["--cache", "cold"], ["--mode", "fp16"]])
def test_options_without_effect_are_refused(
    plot: Any, words: list[str], tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        plot.main([str(RESULTS[0]), "-o", str(tmp_path / "plot.png"), *words])
    assert "have no effect on results of a CPU" in capsys.readouterr().err


def test_nothing_to_draw_is_an_error(plot: Any, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(gpu_report()), encoding="utf-8")
    with pytest.raises(SystemExit):
        plot.main([str(file), "-o", str(tmp_path / "plot.png"), "--mode", "bf16"])
    assert "has nothing to draw" in capsys.readouterr().err
