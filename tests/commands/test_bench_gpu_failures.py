"""What is wrong, breaks or comes too late is told, and does not take the rest with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_gpu import SMALL, fake_gpu, report_of, shifted

from cudeform.commands import bench_gpu
from cudeform.commands.bench_configs import QUICK, Problem
from cudeform.commands.bench_gpu import Wanted
from cudeform.commands.bench_gpu_report import GpuReport, table


def test_ours_must_be_right() -> None:
    gpu = fake_gpu(contestants={"cudeform": shifted})
    report = report_of(gpu)
    assert report.measurements == ()
    [failure] = report.failures
    assert "cudeform is wrong at small forward fp16" in failure
    assert "FAILED: cudeform is wrong at small forward fp16" in table(report)
    assert gpu.clock.now == 0.0  # type: ignore[attr-defined]


def broken(problem: Problem, mode: Any) -> Any:
    def call() -> Any:
        raise RuntimeError("an illegal\n  address")

    return dict.fromkeys(("forward", "backward", "both"), call)


def test_what_breaks_does_not_take_the_others_with_it() -> None:
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
    assert table(report).count("FAILED: ") == 4


def test_a_table_has_a_gap_where_someone_broke() -> None:
    ours = fake_gpu().contestants["cudeform"]

    def sometimes(problem: Problem, mode: Any) -> Any:
        return (broken if problem.config == SMALL else ours)(problem, mode)

    gpu = fake_gpu(contestants={"cudeform": ours, "torchvision": sometimes})
    text = table(report_of(gpu, QUICK))
    details = text[text.index("floors and host") :].splitlines()
    assert details[1].split()[-2:] == ["cudeform", "torchvision"]
    assert details[3].split()[-1] == "-"


def test_a_gpu_that_breaks_for_good_is_told() -> None:
    def tensors(problem: Problem, dtype: str) -> Any:
        if dtype == "bfloat16":
            raise RuntimeError("no more")
        return problem

    report = report_of(fake_gpu(tensors=tensors), modes=["fp16", "bf16"])
    assert [m.mode for m in report.measurements] == ["fp16"]
    assert report.failures == ("small forward bf16 broke: RuntimeError: no more",)


def test_after_the_deadline_the_rest_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=lambda: float(len(done)))
    monkeypatch.setattr(bench_gpu, "time", clock)
    done: list[str] = []
    ours = fake_gpu().contestants["cudeform"]
    gpu = fake_gpu(set_tf32=lambda allowed: done.append("one more"), contestants={"cudeform": ours})
    report = report_of(gpu, QUICK, modes=["fp32", "fp16"], deadline=1.5)
    assert [m.mode for m in report.measurements] == ["fp32", "fp16"]
    left_out = ("small-groups forward fp32", "small-groups forward fp16")
    assert report.skipped == left_out
    assert f"Skipped, for the time was up: {', '.join(left_out)}." in table(report)
    assert GpuReport.from_json(report.to_json()) == report


def test_what_was_measured_is_kept_as_the_run_goes_on() -> None:
    kept: list[int] = []
    wanted = Wanted(QUICK, ["forward"], ["fp32", "fp16"], 0.0)
    bench_gpu.measure_all(fake_gpu(), wanted, lambda r: kept.append(len(r.measurements)))
    assert kept == [2, 4]


def test_a_peer_that_is_off_is_named() -> None:
    ours = fake_gpu().contestants["cudeform"]
    gpu = fake_gpu(contestants={"cudeform": ours, "torchvision": shifted})
    text = table(report_of(gpu))
    assert "torchvision is off by" in text
    assert "at small forward fp16" in text
