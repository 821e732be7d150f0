"""Forced contestants use the forced algorithm, must be right, and have their own table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_gpu import SMALL, fake_gpu, report_of, shifted

from cudeform.gpu import overrides
from cudeform_bench.configs import GPU, OPERATORS_GPU, QUICK, SUMS_GPU
from cudeform_bench.gpu import forced
from cudeform_bench.gpu.model import MODES
from cudeform_bench.gpu.report import text
from cudeform_bench.gpu.run import Gpu


def forced_gpu(wrong: bool = False) -> Gpu:
    """A GPU with two forced contestants."""
    ours = fake_gpu().contestants["cudeform"]

    def only(direction: str, of: Any) -> Any:
        return lambda *what: {direction: of(*what)[direction]}

    forced = {
        "path fused": only("forward", shifted if wrong else ours),
        "scatter gather": only("backward", ours),
    }
    return fake_gpu(contestants=fake_gpu().contestants | forced)


def test_forced_contestants_have_their_own_table() -> None:
    report = report_of(forced_gpu(), directions=["forward", "backward"])
    said = text(report)
    assert "fp16, forward, forced: cold ms\nconfig  chosen  path fused\nsmall   3.0000" in said
    assert "fp16, backward, forced: cold ms\nconfig  chosen  scatter gather\nsmall" in said
    before = said.index("forced: cold ms")
    assert "path fused" not in said[:before]
    for measured in report.measurements:
        assert len(measured.errors) == 2  # it must be right, too


def test_forced_contestants_must_be_right() -> None:
    report = report_of(forced_gpu(wrong=True))
    [failure] = report.failures
    assert "path fused is wrong at small forward fp16" in failure
    [one] = report.measurements  # without it
    assert list(one.host_us) == ["cudeform", "products"]


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_what_can_be_forced(capability: int) -> None:
    processor = forced.Processor(capability, 132)
    three = ("forward", "backward", "both")
    for config in GPU + OPERATORS_GPU:
        able = {
            name: forced.path_directions(name, config, "float16", processor)
            for name in overrides.ALGORITHMS
        }
        assert able["im2col"] == three
        assert able["direct"] == (three if config.name == "C4" else ())
        fused = config.axes == 2 and config.name != "C4" and capability >= 80
        of_image = "backward" if config.transposed else "forward"
        assert able["fused"] == ((of_image,) if fused else ())
        can = {"scalar": True, "vector": capability >= 90, "gather": True}
        assert can == {
            name: forced.can_scatter(name, config, "float16", processor)
            for name in overrides.SCATTERS
        }
        assert not forced.can_scatter("vector", config, "float64", processor)


@pytest.mark.parametrize("capability", [80, 90])
def test_sums_have_one_path_and_every_way_to_scatter(capability: int) -> None:
    processor = forced.Processor(capability, 132)
    for config in SUMS_GPU:
        for name in overrides.ALGORITHMS:
            assert forced.path_directions(name, config, "float16", processor) == ()
        assert forced.can_scatter("gather", config, "float16", processor)
        assert forced.can_scatter("vector", config, "float16", processor) == (capability == 90)


def test_forced_calls_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def calls(*_: Any) -> Any:
        return dict.fromkeys(
            ("forward", "backward", "both"),
            lambda: seen.append(overrides.forced()),
        )

    monkeypatch.setattr(forced, "cudeform_calls", calls)
    made = forced.contestants(forced.Processor(90, 132), ["im2col", "direct"], ["gather"])
    tensors: Any = SimpleNamespace(config=SMALL)
    for of in made.values():
        for call in of(tensors, MODES["fp16"]).values():
            call()
    assert list(made) == ["path im2col", "path direct", "scatter gather"]
    assert seen == [("im2col", None)] * 3 + [(None, "gather")]
    tensors = SimpleNamespace(config=QUICK[4])
    assert list(made["scatter gather"](tensors, MODES["fp16"])) == ["forward"]  # transposed
