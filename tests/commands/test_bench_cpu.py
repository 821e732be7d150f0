"""The benchmark on a CPU: wrong results are refused, contestants take turns, tables are right."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from cudeform.__main__ import main
from cudeform.commands.machine import Blas, Machine
from cudeform_bench.configs import ALL, QUICK, Config, Problem
from cudeform_bench.cpu import contestants, timing
from cudeform_bench.cpu.contestants import Calls, Contestant, cudeform_calls
from cudeform_bench.cpu.report import Report, text
from cudeform_bench.peers import torch_calls
from cudeform_bench.sums import Sum
from cudeform_bench.table import Measurement, direction_table, mean_ratio

SMALL = QUICK[0]
OTHERS = ["tvdcn", "grid_sample"]
SUM_PEERS = ["grid_sample", "compiled grid_sample"]
forward = import_module("cudeform.cpu.forward")


def measurement(ours: float, torchvision: float, direction: str = "forward") -> Measurement:
    samples = {"cudeform": [ours] * 3, "torchvision": [torchvision] * 3}
    medians = {"cudeform": ours, "torchvision": torchvision}
    return Measurement(SMALL, direction, samples, medians, dict.fromkeys(samples, 1e-7), 1.5)


def report(*measurements: Measurement) -> Report:
    blas = (Blas("openblas", "1.2", "numpy", "Zen", 2),)
    machine = Machine("a processor", 2, blas, {"OMP_NUM_THREADS": "2"}, ("A remark.",))
    versions, absent = {"cudeform": "0.1.0"}, {"onnxruntime": "onnx not installed"}
    return Report("bench", "a date", None, versions, machine, absent, measurements)


# ---- contestants ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
@pytest.mark.parametrize(
    "name",
    [
        "torchvision",
        "tvdcn",
        "grid_sample",
        "onnxruntime",
        pytest.param("compiled grid_sample", marks=pytest.mark.slow),
    ],
)
def test_peers_compute_the_same(name: str, config: Config) -> None:
    why = contestants.absence(name)
    if why is not None:
        pytest.skip(f"needs {name}: {why}")
    problem = Problem.of(config)
    exact = cudeform_calls(problem.astype(np.float64), None)
    for direction, call in contestants.CONTESTANTS[name].calls(problem, None).items():
        assert timing.largest_error(call(), exact[direction]()) <= timing.TOLERANCE


def test_torchvision_is_the_peer_in_two_dimensions_and_others_elsewhere() -> None:
    for config in ALL:
        peers = [name for name in torch_calls.FUNCTIONS if torch_calls.computes(name, config)]
        others = SUM_PEERS if isinstance(config, Sum) else OTHERS
        assert peers == (["torchvision"] if config.operator == "deform_conv2d" else others)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_shares_of_the_time_are_those_of_the_engines_functions(direction: str) -> None:
    before = forward.gather_columns
    shares = contestants.cudeform_profile(Problem.of(SMALL), direction)
    assert list(shares) == ["product", "sampling", "rest"]
    assert min(shares.values()) > 0.01
    assert sum(shares.values()) == pytest.approx(1)
    assert forward.gather_columns is before


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Contestant(cudeform_calls, needs=("no_such_library", "numpy"))
    monkeypatch.setitem(contestants.CONTESTANTS, "absent", absent)
    assert contestants.absence("absent") == "no_such_library not installed"
    assert contestants.absence("cudeform") is None


def wrong_output(problem: Problem, threads: int | None) -> Calls:
    calls = cudeform_calls(problem, threads)
    return {"forward": lambda: {"output": calls["forward"]()["output"][..., ::-1]}}


def wrong_gradient(problem: Problem, threads: int | None) -> Calls:
    def backward() -> Any:
        results = cudeform_calls(problem, threads)["backward"]()
        results["grad_offset"] = np.roll(results["grad_offset"], 1, axis=1)  # (x, y) for (y, x)
        return results

    return {"backward": backward}


def not_a_number(problem: Problem, threads: int | None) -> Calls:
    return {"forward": lambda: {"output": np.full_like(problem.grad_output, np.nan)}}


@pytest.mark.parametrize("calls", [wrong_output, wrong_gradient, not_a_number])
def test_a_wrong_contestant_is_not_timed(
    calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(timing, "time_in_turns", lambda calls, seconds: pytest.fail("timed"))
    peers = {"cudeform": Contestant(cudeform_calls), "the wrong one": Contestant(calls)}
    monkeypatch.setattr(contestants, "CONTESTANTS", peers)
    (direction,) = calls(Problem.of(SMALL), 1)
    assert main(["bench", "--quick", "--config", "small", "--direction", direction]) == 1
    said = capsys.readouterr()
    assert "the wrong one is wrong at small" in said.err
    assert said.out == ""


# ---- timing --------------------------------------------------------------------------------------


def test_contestants_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) or {} for name in "abc"}
    samples = timing.time_in_turns(calls, seconds=0.0)
    repeats = timing.LEAST_REPEATS
    assert {name: len(times) for name, times in samples.items()} == dict.fromkeys("abc", repeats)
    assert "".join(order) == "abc" + repeats * "aabbcc"  # each once untimed, as they are short


def test_workspace_is_what_a_call_allocates_without_its_results() -> None:
    def call() -> Any:
        scratch = np.ones(3 * 2**20, np.uint8)
        return {"output": scratch[: 2**20].copy()}

    assert timing.peak_workspace(call) == pytest.approx(3 * 2**20, rel=0.01)


def test_a_contestant_with_a_profile_has_shares_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def profile(problem: Problem, direction: str) -> dict[str, float]:
        return {"product": 0.75, "sampling": 0.125}

    ours = Contestant(cudeform_calls, profile=profile)
    monkeypatch.setattr(contestants, "CONTESTANTS", {"cudeform": ours})
    assert main(["bench", "--quick", "--config", "small", "--direction", "forward"]) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if r.startswith("small "))
    assert "75%" in row
    assert "12%" in row


# ---- report --------------------------------------------------------------------------------------


def test_json_round_trip_gives_the_same_report() -> None:
    first = report(measurement(1.0, 2.0), measurement(3.0, 4.0, "both"))
    second = Report.from_json(first.to_json())
    assert second == first
    assert text(second) == text(first)


def test_a_measurement_without_shares_is_read() -> None:
    first = report(measurement(1.0, 2.0))
    fields = json.loads(first.to_json())
    for measured in fields["measurements"]:
        del measured["shares"]
    assert Report.from_json(json.dumps(fields)).measurements[0].shares == {}


def test_ratio_is_above_1_where_the_peer_is_slower() -> None:
    assert measurement(ours=2.0, torchvision=6.0).ratio("torchvision") == 3.0
    assert measurement(ours=2.0, torchvision=6.0).ratio("onnxruntime") is None


def test_geometric_mean_of_the_ratios() -> None:
    measured = [measurement(1.0, 2.0), measurement(1.0, 8.0)]
    assert mean_ratio(measured, "torchvision") == pytest.approx(4.0)
    assert mean_ratio(measured, "onnxruntime") is None
    [last] = [r for r in direction_table(measured).splitlines() if "geometric mean" in r]
    assert last.split()[-1] == "4.00"


def test_the_text_has_aligned_tables_and_notes() -> None:
    said = text(report(measurement(1.0, 2.0), measurement(1000.0, 2.0)))
    rows = [line for line in said.splitlines() if line.startswith(SMALL.name)]
    assert len({len(row) for row in rows}) == 1
    for words in (
        "A remark.",
        "Without onnxruntime: onnx not installed.",
        "kernel set Zen",
        "threads: each library's default",
    ):
        assert words in said


def test_gflop_per_second_counts_the_matrix_products() -> None:
    forward, both = measurement(10.0, 1.0), measurement(10.0, 1.0, "both")
    assert forward.gflop_per_s == pytest.approx(SMALL.gemm_flop / 0.01 / 1e9)
    assert both.gflop_per_s == pytest.approx(3 * SMALL.gemm_flop / 0.01 / 1e9)
    transposed = replace(SMALL, transposed=True)
    counts = [transposed.product_flop(d) / SMALL.gemm_flop for d in ("forward", "backward", "both")]
    assert counts == [1, 3, 4]


def test_a_table_of_sums_has_no_rate_of_products() -> None:
    plain = measurement(1.0, 2.0)
    of_sum = replace(plain, config=next(config for config in QUICK if isinstance(config, Sum)))
    assert "GEMM" in direction_table([plain, of_sum])
    assert "GEMM" not in direction_table([of_sum])
