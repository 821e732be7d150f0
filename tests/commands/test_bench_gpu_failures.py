"""Wrong results, errors and the deadline are reported, and the other measurements go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_gpu import SMALL, fake_gpu, report_of, shifted

from cudeform_bench.configs import QUICK, Problem
from cudeform_bench.gpu import run
from cudeform_bench.gpu.report import GpuReport, text
from cudeform_bench.gpu.run import Wanted


def test_ours_must_be_right() -> None:
    gpu = fake_gpu(contestants={"cudeform": shifted})
    report = report_of(gpu)
    assert report.measurements == ()
    [failure] = report.failures
    assert "cudeform is wrong at small forward fp16" in failure
    assert "FAILED: cudeform is wrong at small forward fp16" in text(report)
    assert gpu.clock.now == 0.0  # type: ignore[attr-defined]


def broken(problem: Problem, mode: Any) -> Any:
    def call() -> Any:
        raise RuntimeError("an illegal\n  address")

    return dict.fromkeys(("forward", "backward", "both"), call)


def test_an_error_does_not_stop_the_others() -> None:
    ours = fake_gpu().contestants["cudeform"]

    def sometimes(problem: Problem, mode: Any) -> Any:
        return (broken if mode.name == "tf32" else ours)(problem, mode)

    contestants = {"cudeform": ours, "torchvision": sometimes, "products": broken}
    report = report_of(fake_gpu(contestants=contestants), modes=["fp32", "tf32", "fp16"])
    assert [list(m.host_us) for m in report.measurements] == [
        ["cudeform", "torchvision"],
        ["cudeform"],
        ["cudeform", "torchvision"],
    ]
    assert len(report.failures) == 4
    words = "torchvision broke at small forward tf32: RuntimeError: an illegal address"
    assert words in report.failures
    assert text(report).count("FAILED: ") == 4


def test_a_table_has_a_gap_where_a_contestant_failed() -> None:
    ours = fake_gpu().contestants["cudeform"]

    def sometimes(problem: Problem, mode: Any) -> Any:
        return (broken if problem.config == SMALL else ours)(problem, mode)

    gpu = fake_gpu(contestants={"cudeform": ours, "torchvision": sometimes})
    said = text(report_of(gpu, QUICK[:2]))
    details = said[said.index("floors and host") :].splitlines()
    assert details[1].split()[-2:] == ["cudeform", "torchvision"]
    assert details[3].split()[-1] == "-"


def test_an_error_before_the_first_call_is_reported() -> None:
    def tensors(problem: Problem, dtype: str) -> Any:
        if dtype == "bfloat16":
            raise RuntimeError("no more")
        return problem

    report = report_of(fake_gpu(tensors=tensors), modes=["fp16", "bf16"])
    assert [m.mode for m in report.measurements] == ["fp16"]
    assert report.failures == ("small forward bf16 broke: RuntimeError: no more",)


def test_measurements_after_the_deadline_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=lambda: float(len(done)))
    monkeypatch.setattr(run, "time", clock)
    done: list[str] = []
    ours = fake_gpu().contestants["cudeform"]
    gpu = fake_gpu(set_tf32=lambda allowed: done.append("one more"), contestants={"cudeform": ours})
    report = report_of(gpu, QUICK[:2], modes=["fp32", "fp16"], deadline=1.5)
    assert [m.mode for m in report.measurements] == ["fp32", "fp16"]
    left_out = ("small-groups forward fp32", "small-groups forward fp16")
    assert report.skipped == left_out
    assert f"Skipped after the deadline: {', '.join(left_out)}." in text(report)
    assert GpuReport.from_json(report.to_json()) == report


def test_the_report_is_written_during_the_run() -> None:
    kept: list[int] = []
    wanted = Wanted(QUICK[:2], ["forward"], ["fp32", "fp16"], 0.0)
    run.measure_all(fake_gpu(), wanted, lambda r: kept.append(len(r.measurements)))
    assert kept == [2, 4]


def test_a_peer_that_differs_is_named() -> None:
    ours = fake_gpu().contestants["cudeform"]
    gpu = fake_gpu(contestants={"cudeform": ours, "torchvision": shifted})
    said = text(report_of(gpu))
    assert "torchvision differs by" in said
    assert "at small forward fp16" in said
