"""`python -m cudeform bench`: it refuses wrong results, times fairly, reports what it measured."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cudeform.__main__ import main
from cudeform.commands import bench_peers, bench_timing
from cudeform.commands.bench_configs import CPU, GPU, OFFSETS, QUICK, Config, Problem, named
from cudeform.commands.bench_table import Measurement, Report, mean_ratio, table
from cudeform.commands.info import Blas, Machine

SMALL = QUICK[0]

# Sizes of the matrix products, worked out independently of this code.
GFLOP = {
    "A1": 9.91, "A2": 9.91, "A3": 9.91, "A4": 9.91, "A5": 4.95, "A6": 39.64, "B1": 4.25,
    "B2": 16.99, "B3": 9.66, "B4": 8.49, "C1": 38.65, "C2": 0.30, "C3": 6.58, "C4": 0.15,
}  # fmt: skip


def measurement(ours: float, torchvision: float, direction: str = "forward") -> Measurement:
    samples = {"cudeform": [ours] * 3, "torchvision": [torchvision] * 3}
    medians = {"cudeform": ours, "torchvision": torchvision}
    return Measurement(SMALL, direction, samples, medians, dict.fromkeys(samples, 1e-7), 1.5)


def report(*measurements: Measurement) -> Report:
    blas = (Blas("openblas", "1.2", "numpy", "Zen", 2),)
    machine = Machine("a processor", 2, blas, {"OMP_NUM_THREADS": "2"}, ("A remark.",))
    versions, absent = {"cudeform": "0.1.0"}, {"onnxruntime": "onnx not installed"}
    return Report("bench", "a date", 2, versions, machine, absent, measurements)


def test_quick_runs_and_its_table_can_be_made_again(tmp_path):
    command = [sys.executable, "-m", "cudeform", "bench"]
    file = tmp_path / "results.json"

    def output(*words: str) -> str:
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = output("--quick", "--json", str(file))
    assert output("--from", str(file)) == printed
    results = Report.from_json(file.read_text())
    assert len(results.measurements) == 3 * len(QUICK)
    assert "--quick" in results.command
    for measured in results.measurements:
        assert measured.workspace_mib > 0
        assert max(measured.errors.values()) < 1e-5
        for name, samples in measured.samples_ms.items():
            assert len(samples) == bench_timing.LEAST_REPEATS
            assert measured.median_ms[name] == np.median(samples)


def test_json_round_trip_gives_the_same_report():
    first = report(measurement(1.0, 2.0), measurement(3.0, 4.0, "both"))
    second = Report.from_json(first.to_json())
    assert second == first
    assert table(second) == table(first)


def test_ratio_is_above_1_where_the_peer_is_slower():
    assert measurement(ours=2.0, torchvision=6.0).ratio("torchvision") == 3.0
    assert measurement(ours=2.0, torchvision=6.0).ratio("onnxruntime") is None


def test_geometric_mean_of_the_ratios():
    measured = [measurement(1.0, 2.0), measurement(1.0, 8.0)]
    assert mean_ratio(measured, "torchvision") == pytest.approx(4.0)
    assert mean_ratio(measured, "onnxruntime") is None
    last = [line for line in table(report(*measured)).splitlines() if "geometric mean" in line]
    assert [line.split()[-1] for line in last] == ["4.00"]


def test_the_table_is_aligned_and_says_what_there_is_to_say():
    text = table(report(measurement(1.0, 2.0), measurement(1000.0, 2.0)))
    rows = [line for line in text.splitlines() if line.startswith(SMALL.name)]
    assert len({len(row) for row in rows}) == 1
    assert "A remark." in text
    assert "Without onnxruntime: onnx not installed." in text
    assert "kernel set Zen" in text


def test_gflop_per_second_counts_the_matrix_products():
    forward, both = measurement(10.0, 1.0), measurement(10.0, 1.0, "both")
    assert forward.gflop_per_s == pytest.approx(SMALL.gemm_flop / 0.01 / 1e9)
    assert both.gflop_per_s == pytest.approx(3 * forward.gflop_per_s)


def wrong_output(problem, threads):
    calls = bench_peers.cudeform_calls(problem, threads)
    return {"forward": lambda: {"output": calls["forward"]()["output"][..., ::-1]}}


def wrong_gradient(problem, threads):
    def backward():
        results = bench_peers.cudeform_calls(problem, threads)["backward"]()
        results["grad_offset"] = np.roll(results["grad_offset"], 1, axis=1)  # (x, y) for (y, x)
        return results

    return {"backward": backward}


def not_a_number(problem, threads):
    return {"forward": lambda: {"output": np.full_like(problem.grad_output, np.nan)}}


@pytest.mark.parametrize("contestant", [wrong_output, wrong_gradient, not_a_number])
def test_a_wrong_contestant_is_not_timed(monkeypatch, capsys, contestant):
    monkeypatch.setattr(bench_timing, "time_in_turns", lambda calls, seconds: pytest.fail("timed"))
    peers = {"cudeform": bench_peers.cudeform_calls, "the wrong one": contestant}
    monkeypatch.setattr(bench_peers, "CONTESTANTS", peers)
    (direction,) = contestant(Problem.of(SMALL), 1)
    assert main(["bench", "--quick", "--config", "small", "--direction", direction]) == 1
    said = capsys.readouterr()
    assert "the wrong one is wrong at small" in said.err
    assert said.out == ""


def test_contestants_take_turns_and_the_first_round_does_not_count():
    order = []
    calls = {name: lambda name=name: order.append(name) or {} for name in "abc"}
    samples = bench_timing.time_in_turns(calls, seconds=0.0)
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(order) == "abc" + 3 * "aabbcc"  # each once untimed, as they are short


def test_workspace_is_what_a_call_holds_beside_its_results():
    def call():
        scratch = np.ones(3 * 2**20, np.uint8)
        return {"output": scratch[: 2**20].copy()}

    assert bench_timing.peak_workspace(call) == pytest.approx(3 * 2**20, rel=0.01)


@pytest.mark.parametrize("config", GPU, ids=lambda config: config.name)
def test_sizes_of_the_matrix_products(config):
    assert config.gemm_flop / 1e9 == pytest.approx(GFLOP[config.name], abs=0.005)


@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
def test_arrays_fit_together_and_are_the_same_every_time(config):
    first, second = Problem.of(config), Problem.of(config)
    for name in (*bench_peers.ARGUMENTS, "grad_output"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == np.float32
        assert getattr(first.astype(np.float64), name).dtype == np.float64
    results = bench_peers.cudeform_calls(first, 1)["both"]()
    assert results["output"].shape == first.grad_output.shape
    assert set(results) == {"output", *(f"grad_{name}" for name in bench_peers.ARGUMENTS)}


@pytest.mark.parametrize("offsets", OFFSETS)
def test_no_tap_falls_on_a_pixel_unless_all_do(offsets):
    offset = Problem.of(replace(SMALL, offsets=offsets)).offset
    assert ((offset * 512) % 2 == (0 if offsets == "zero" else 1)).all()


def test_uniform_offsets_stay_in_the_image_and_outside_ones_do_not():
    config = Config("strided", 2, 4, 12, 20, 4, kernel=5, stride=2, offsets="uniform")
    y, x = positions(config)
    assert ((y > -0.01) & (y < 11.01) & (x > -0.01) & (x < 19.01)).all()
    assert (y.std() > 3) & (x.std() > 5)
    y, x = positions(replace(config, offsets="outside"))
    assert ((y > 12) & (x > 20)).all()


def positions(config: Config):
    """Where every tap samples, seen from the definition: two arrays (N, OG, KH, KW, OH, OW)."""
    offset = Problem.of(config).offset.reshape(
        config.batch, -1, config.kernel, config.kernel, 2, config.out_height, config.out_width
    )
    tap_y, tap_x, out_y, out_x = np.ogrid[
        : config.kernel, : config.kernel, : config.out_height, : config.out_width
    ]
    y = out_y * config.stride - config.padding + tap_y + offset[:, :, :, :, 0]
    x = out_x * config.stride - config.padding + tap_x + offset[:, :, :, :, 1]
    return y, x


def test_names_of_configurations():
    assert named("A1") == (GPU[0],)
    assert named("cpu") == CPU
    assert named("all") == CPU + GPU
    names = [config.name for config in CPU + GPU + QUICK]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--config", "A1", "A7"],
            "there is no configuration 'A7'; there are cpu, gpu, quick, all",
        ),
        (["--threads", "0"], "must be a positive integer, got '0'"),
        (["--json", "no/such/folder/results.json"], "there is no folder no/such/folder"),
        (["--from", "no-such-file.json"], "cannot read no-such-file.json: No such file"),
        (["--from", __file__], "holds no results of bench"),
    ],
)
def test_errors_are_words(capsys, words, expected):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setitem(bench_peers.NEEDS, "torchvision", ("no_such_library",))
    assert bench_peers.absence("torchvision") == "no_such_library not installed"
    assert bench_peers.absence("cudeform") is None


def test_the_progress_bar_is_optional(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # import tqdm now raises ImportError
    monkeypatch.setattr(bench_peers, "CONTESTANTS", {"cudeform": bench_peers.cudeform_calls})
    assert main(["bench", "--quick", "--config", "small", "--direction", "forward"]) == 0
    assert "small" in capsys.readouterr().out


def test_the_page_on_benchmarks_lists_every_configuration_and_offset():
    page = (Path(__file__).resolve().parents[2] / "benchmarks/README.md").read_text(
        encoding="utf-8"
    )
    for config in CPU + GPU + QUICK:
        row = f"| {config.name} | `{config.shape}` | {config.gemm_flop / 1e9:.2f} |"
        assert row in page
    assert all(name in page for name in OFFSETS)
