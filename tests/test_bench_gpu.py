"""`python -m cudeform bench --device gpu`, all but the GPU: model, turns, checks, tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cudeform.__main__ import main
from cudeform.commands import (
    bench_gpu,
    bench_gpu_forced,
    bench_gpu_peers,
    bench_gpu_timing,
)
from cudeform.commands.bench_configs import GPU, QUICK, Config, Problem, named
from cudeform.commands.bench_gpu import Gpu, NoGpu, Wanted
from cudeform.commands.bench_gpu_model import MODES, floors_us, shares
from cudeform.commands.bench_gpu_report import GpuReport, table
from cudeform.commands.bench_gpu_timing import measure_in_turns, workspace
from cudeform.commands.bench_peers import cudeform_calls
from cudeform.commands.bench_timing import largest_error
from cudeform.gpu import paths, scatter

SMALL = QUICK[0]
HAS_TORCH = importlib.util.find_spec("torch") is not None


class FakeClock:
    """Each mark is 1 ms after the one before, 3 ms if the cache was flushed since."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cold, self.busy = False, 0.0
        self.done: list[str] = []
        self.used = 100

    def flush(self) -> None:
        self.cold = True
        self.done.append("flush")

    def occupy(self, seconds: float) -> None:
        self.busy = seconds
        self.done.append("occupy")

    def record(self) -> float:
        self.now += 3.0 if self.cold else 1.0
        return self.now

    def elapsed_ms(self, first: float, second: float) -> float:
        return second - first

    def wait(self) -> None:
        self.cold = False
        self.done.append("wait")

    def reset_peak(self) -> int:
        return self.used

    def peak(self) -> int:
        return self.used + 1000


def shifted(problem: Problem, mode: Any) -> Any:
    """A peer that is wrong by one pixel."""
    calls = cudeform_calls(problem, 1)

    def wrong(call: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: {name: np.roll(array, 1) for name, array in call().items()}

    return {direction: wrong(call) for direction, call in calls.items()}


def fake_gpu(**changes: Any) -> Gpu:
    gpu = Gpu(
        name="a GPU",
        clock=FakeClock(),
        tensors=lambda problem, dtype: problem,
        set_tf32=lambda allowed: None,
        contestants={
            "cudeform": lambda problem, mode: cudeform_calls(problem, 1),
            "products": lambda problem, mode: cudeform_calls(problem, 1),
        },
        absent={"torchvision": "torchvision not installed"},
        exact=lambda problem: cudeform_calls(problem.astype(np.float64), 1),
        error=largest_error,
        nbytes=lambda results: sum(array.nbytes for array in results.values()),
        free=lambda: None,
    )
    return replace(gpu, **changes)


# ---- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "products", "memory", "gather", "scatter"),
    # Microseconds: float32, TensorFloat-32 and bfloat16; float32 and bfloat16; the same; float32.
    [
        ("A1", (148, 20.0, 12.5), (9.0, 4.5), (20.9, 10.4), 229),
        ("A4", (148, 20.0, 12.5), (4.2, 2.1), (5.2, 2.6), 57),
        ("B4", (127, 17.2, 10.8), (33.5, 16.8), (35.8, 17.9), 393),
        ("C3", (98, 13.3, 8.3), (2.5, 1.3), (6.9, 3.5), 76),
        ("C4", (2, 0.3, 0.2), (16.4, 8.2), (41.8, 20.9), 459),
    ],
)
def test_floors(
    name: str,
    products: tuple[float, ...],
    memory: tuple[float, ...],
    gather: tuple[float, ...],
    scatter: float,
) -> None:
    (config,) = named(name)
    fp32, tf32, bf16 = (floors_us(config, MODES[m], "forward") for m in ("fp32", "tf32", "bf16"))
    for floors, expected in zip((fp32, tf32, bf16), products, strict=True):
        assert floors["products"] == pytest.approx(expected, rel=0.02, abs=0.5)
    for floors, bytes_, corners in zip((fp32, bf16), memory, gather, strict=True):
        assert floors["memory"] == pytest.approx(bytes_, rel=0.02, abs=0.06)
        assert floors["gather"] == pytest.approx(corners, rel=0.02)
        assert "scatter" not in floors
    assert floors_us(config, MODES["fp16"], "backward")["scatter"] == pytest.approx(
        scatter, rel=0.01
    )


def test_both_directions_take_as_much_as_each() -> None:
    for config in GPU:
        one, two, both = (
            floors_us(config, MODES["tf32"], d) for d in ("forward", "backward", "both")
        )
        for name, floor in both.items():
            assert floor == pytest.approx(one.get(name, 0) + two[name])


def test_shares_are_floors_by_time() -> None:
    floors = floors_us(SMALL, MODES["fp16"], "forward")
    found = shares(SMALL, MODES["fp16"], "forward", 10.0)
    assert found == {name: pytest.approx(floor / 10) for name, floor in floors.items()}


def test_floors_of_memory_are_those_of_the_gpu() -> None:
    two, one = (
        report_of(fake_gpu(name=name)).measurements[0].shares
        for name in ("NVIDIA H200", "NVIDIA H100 80GB HBM3")
    )
    assert one["memory"] == pytest.approx(two["memory"] * 4.3 / 3.0)
    assert {name: one[name] for name in ("products", "gather")} == {
        name: two[name] for name in ("products", "gather")
    }
    assert report_of(fake_gpu(name="NVIDIA H100 80GB HBM3")).rates["memory"] == 3.0e12


# ---- turns ---------------------------------------------------------------------------------------


def test_contestants_take_turns_warm_then_cold() -> None:
    clock, order = FakeClock(), []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = measure_in_turns(clock, calls, seconds=0.0)
    repeats = host = bench_gpu_timing.LEAST_REPEATS
    # Once before all, and to see how long the host takes; each repeat fills the cache, then times
    # warm and cold.
    assert "".join(order) == "ab" + "aaabbb" + repeats * "aaabbb" + host * "ab"
    for taken in samples.values():
        assert taken.warm_ms == [1.0] * repeats
        assert taken.cold_ms == [3.0] * repeats
        assert len(taken.host_us) == host
    asked = [what for what in clock.done if what != "wait"]
    assert asked == ["occupy", "flush", "occupy"] * 2 * repeats


@pytest.mark.parametrize(("takes", "busy"), [(1e-6, 3e-4), (1e-3, 2e-3), (1.0, 0.05)])
def test_the_gpu_is_busy_for_longer_than_the_host(
    takes: float, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the time between two events would be the host's."""
    clock, now = FakeClock(), [0.0]
    monkeypatch.setattr(bench_gpu_timing.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += takes

    measure_in_turns(clock, {"a": call}, seconds=0.0)
    assert clock.busy == pytest.approx(busy)


def test_repeats_end_with_the_time_or_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Iterator[float] = iter(range(10**6))
    monkeypatch.setattr(bench_gpu_timing.time, "perf_counter", lambda: float(next(ticks)))
    samples = measure_in_turns(FakeClock(), {"a": lambda: None}, seconds=20.0)
    assert 15 <= len(samples["a"].warm_ms) <= 25
    samples = measure_in_turns(FakeClock(), {"a": lambda: None}, seconds=1e9)
    assert len(samples["a"].warm_ms) == bench_gpu_timing.MOST_REPEATS


def test_workspace_is_what_is_held_beside_results() -> None:
    assert workspace(FakeClock(), lambda: "results", lambda results: 300) == 700


# ---- a run ---------------------------------------------------------------------------------------


def report_of(
    gpu: Gpu,
    configs: Sequence[Config] = (SMALL,),
    directions: Sequence[str] = ("forward",),
    modes: Sequence[str] = ("fp16",),
    **rest: Any,
) -> GpuReport:
    """A report with as few repeats as can be."""
    return bench_gpu.measure_all(gpu, Wanted(configs, directions, modes, 0.0, **rest))


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
    text = table(report)
    for words in (
        "tf32, forward and backward, cold",
        "fp32, forward, warm",
        "a GPU",
        "host us",
        "scatter",
        "gather 2.96e+13",
        "Without torchvision: torchvision not installed.",
    ):
        assert words in text
    assert "is off by" not in text


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


def test_workspace_is_told_of_those_whose_memory_is_counted() -> None:
    ours = fake_gpu().contestants["cudeform"]
    [one] = report_of(fake_gpu(contestants={"cudeform": ours, "on CuPy": ours})).measurements
    assert list(one.workspace_mib) == ["cudeform"]
    assert list(one.host_us) == ["cudeform", "on CuPy"]


def test_a_peer_that_is_off_is_named() -> None:
    ours = fake_gpu().contestants["cudeform"]
    gpu = fake_gpu(contestants={"cudeform": ours, "torchvision": shifted})
    text = table(report_of(gpu))
    assert "torchvision is off by" in text
    assert "at small forward fp16" in text


def forced_gpu(wrong: bool = False) -> Gpu:
    """A GPU on which some contestants are cudeform, forced."""
    ours = fake_gpu().contestants["cudeform"]

    def only(direction: str, of: Any) -> Any:
        return lambda *what: {direction: of(*what)[direction]}

    forced = {
        "path fused": only("forward", shifted if wrong else ours),
        "scatter gather": only("backward", ours),
    }
    return fake_gpu(contestants=fake_gpu().contestants | forced)


def test_what_was_forced_has_a_table_of_its_own() -> None:
    report = report_of(forced_gpu(), directions=["forward", "backward"])
    text = table(report)
    assert "fp16, forward, forced: cold ms\nconfig  chosen  path fused\nsmall   3.0000" in text
    assert "fp16, backward, forced: cold ms\nconfig  chosen  scatter gather\nsmall" in text
    before = text.index("forced: cold ms")
    assert "path fused" not in text[:before]
    for measured in report.measurements:
        assert len(measured.errors) == 2  # it must be right, too


def test_what_is_forced_must_be_right() -> None:
    report = report_of(forced_gpu(wrong=True))
    [failure] = report.failures
    assert "path fused is wrong at small forward fp16" in failure
    [one] = report.measurements  # without it
    assert list(one.host_us) == ["cudeform", "products"]


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_what_can_be_forced(capability: int) -> None:
    processor = bench_gpu_forced.Processor(capability, 132)
    three = ("forward", "backward", "both")
    for config in GPU:
        g = bench_gpu_forced.geometry(config)
        able = {
            name: bench_gpu_forced.path_directions(name, g, "float16", processor)
            for name in paths.FORWARD
        }
        assert able["im2col"] == three
        assert able["direct"] == (three if config.name == "C4" else ())
        fused = config.name != "C4" and capability >= 80
        assert able["fused"] == (("forward",) if fused else ())
        can = {"scalar": True, "vector": capability >= 90, "gather": True}
        can["tiles"] = config.name != "C4"
        assert can == {
            name: bench_gpu_forced.can_scatter(name, g, "float16", processor)
            for name in scatter.SCATTERS
        }
        assert not bench_gpu_forced.can_scatter("vector", g, "float64", processor)
    far = replace(GPU[0], kernel=127)
    g = bench_gpu_forced.geometry(far)
    assert not bench_gpu_forced.can_scatter("tiles", g, "float16", processor)


def test_forced_calls_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def calls(*_: Any) -> Any:
        return dict.fromkeys(
            ("forward", "backward", "both"),
            lambda: seen.append((paths.forced_path(), scatter.forced_scatter())),
        )

    monkeypatch.setattr(bench_gpu_forced, "cudeform_calls", calls)
    made = bench_gpu_forced.contestants(
        bench_gpu_forced.Processor(90, 132), ["im2col", "direct"], ["gather"]
    )
    tensors: Any = SimpleNamespace(config=SMALL)
    for of in made.values():
        for call in of(tensors, MODES["fp16"]).values():
            call()
    assert list(made) == ["path im2col", "path direct", "scatter gather"]
    assert seen == [("im2col", None)] * 3 + [(None, "gather")]


def test_tf32_is_allowed_to_all_or_none() -> None:
    said: list[bool] = []
    report_of(fake_gpu(set_tf32=said.append), modes=["fp32", "tf32", "bf16"])
    assert said == [False, True, False]


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any) -> None:
    asked = []
    monkeypatch.setattr(bench_gpu, "torch_gpu", lambda *what: asked.append(what) or fake_gpu())
    file = tmp_path / "results.json"
    words = ["bench", "--device", "gpu", "--quick", "--mode", "fp16", "--direction", "forward"]
    assert main([*words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "fp16, forward, cold" in printed
    assert "backward" not in printed
    assert main(["bench", "--from", str(file)]) == 0
    assert capsys.readouterr().out == printed
    monkeypatch.setattr(
        bench_gpu, "torch_gpu", lambda *what: fake_gpu(contestants={"cudeform": shifted})
    )
    assert main(words) == 1
    assert "FAILED: cudeform is wrong" in capsys.readouterr().out
    monkeypatch.setattr(bench_gpu, "torch_gpu", lambda *what: asked.append(what) or fake_gpu())
    words += ["--path", "im2col", "--scatter", "--offsets", "zero", "uniform"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "small zero " in printed
    assert "small uniform " in printed
    assert asked == [(list(paths.FORWARD), list(scatter.SCATTERS)), (["im2col"], [])]


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_remedy_is_told(capsys: Any) -> None:
    assert main(["bench", "--device", "gpu"]) == 1
    assert "torch is not installed" in capsys.readouterr().err
    with pytest.raises(NoGpu):
        bench_gpu.torch_gpu()


# ---- the calls, on torch's CPU -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fp32", "tf32"])
@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
def test_what_contestants_compute(config: Config, mode: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    tensors = bench_gpu_peers.Tensors.of(Problem.of(config), MODES[mode].dtype, "cpu")
    exact = bench_gpu.exact_calls(tensors, {})
    for name, of in bench_gpu_peers.CONTESTANTS.items():
        if name == "on CuPy":
            continue
        calls = of(tensors, MODES[mode])
        for direction, call in calls.items():
            results = call()
            assert bench_gpu_peers.nbytes(results) > 0
            if name in bench_gpu_peers.SAME:
                assert set(results) == set(exact[direction]())
                error = bench_gpu_peers.largest_error(results, exact[direction]())
                assert error <= MODES[mode].tolerance
            elif "output" in results:
                assert results["output"].numel() == tensors.grad_output.numel()
