"""`bench --device gpu` on a stand-in for a GPU: a run, the command line, contestants."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from support.fake_gpu import fake_gpu, report_of, shifted

from cudeform.__main__ import main
from cudeform.gpu import overrides
from cudeform_bench.configs import QUICK, Config, Problem
from cudeform_bench.gpu import contestants, run
from cudeform_bench.gpu.model import MODES, shares
from cudeform_bench.gpu.report import GpuReport, text
from cudeform_bench.gpu.run import NoGpu
from cudeform_bench.peers import torch_calls

HAS_TORCH = importlib.util.find_spec("torch") is not None


def test_a_run_comes_back_from_json_and_makes_a_table() -> None:
    report = report_of(fake_gpu(), QUICK, ["forward", "both"], ["fp32", "tf32"])
    assert GpuReport.from_json(report.to_json()) == report
    assert len(report.measurements) == 2 * len(QUICK) * 2
    for measured in report.measurements:
        assert measured.median_ms == {
            "warm": {"cudeform": 1.0, "products": 1.0},
            "cold": {"cudeform": 3.0, "products": 3.0},
        }
        assert measured.errors["cudeform"] < 1e-5
        assert set(measured.errors) == {"cudeform"}  # products are something else
        assert measured.shares == shares(
            measured.config, MODES[measured.mode], measured.direction, 3e3
        )
    said = text(report)
    for words in (
        "tf32, forward and backward, cold",
        "fp32, forward, warm",
        "a GPU",
        "host us",
        "scatter",
        "gather 2.96e+13",
        "Without torchvision: torchvision not installed.",
    ):
        assert words in said
    assert "differs by" not in said


def test_workspace_is_reported_where_memory_comes_from_torch() -> None:
    ours = fake_gpu().contestants["cudeform"]
    [one] = report_of(fake_gpu(contestants={"cudeform": ours, "on CuPy": ours})).measurements
    assert list(one.workspace_mib) == ["cudeform"]
    assert list(one.host_us) == ["cudeform", "on CuPy"]


def test_tf32_is_set_once_for_all_contestants() -> None:
    said: list[bool] = []
    report_of(fake_gpu(set_tf32=said.append), modes=["fp32", "tf32", "bf16"])
    assert said == [False, True, False]


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any) -> None:
    asked = []
    monkeypatch.setattr(run, "torch_gpu", lambda *what: asked.append(what) or fake_gpu())
    file = tmp_path / "results.json"
    words = ["bench", "--device", "gpu", "--quick", "--mode", "fp16", "--direction", "forward"]
    assert main([*words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "fp16, forward, cold" in printed
    assert "backward" not in printed
    assert main(["bench", "--from", str(file)]) == 0
    assert capsys.readouterr().out == printed
    monkeypatch.setattr(run, "torch_gpu", lambda *what: fake_gpu(contestants={"cudeform": shifted}))
    assert main(words) == 1
    assert "FAILED: cudeform is wrong" in capsys.readouterr().out
    monkeypatch.setattr(run, "torch_gpu", lambda *what: asked.append(what) or fake_gpu())
    words += ["--config", "small", "--path", "im2col", "--scatter", "--offsets", "zero", "uniform"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "small zero " in printed
    assert "small uniform " in printed
    assert asked == [(overrides.ALGORITHMS, overrides.SCATTERS), (["im2col"], [])]


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_reason_is_given(capsys: Any) -> None:
    assert main(["bench", "--device", "gpu"]) == 2
    assert "torch is not installed" in capsys.readouterr().err
    with pytest.raises(NoGpu):
        run.torch_gpu()


@pytest.mark.parametrize("mode", ["fp32", "tf32"])
@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
def test_what_contestants_compute(config: Config, mode: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    tensors = contestants.Tensors.of(Problem.of(config), MODES[mode].dtype, "cpu")
    exact = run.exact_calls(tensors, {})
    for name, of in contestants.CONTESTANTS.items():
        if name == "on CuPy" or (name == "tvdcn" and torch_calls.absence(name)):
            continue
        if name == torch_calls.COMPILED:  # a slow test of the CPU's contestants compiles it
            continue
        calls = of(tensors, MODES[mode])
        for direction, call in calls.items():
            results = call()
            assert contestants.nbytes(results) > 0
            if name in contestants.SAME:
                assert set(results) == set(exact[direction]())
                error = contestants.largest_error(results, exact[direction]())
                assert error <= MODES[mode].tolerance
            elif name == "convolution" and "output" in results:
                assert results["output"].shape == tensors.grad_output.shape
