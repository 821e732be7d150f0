"""Time cudeform beside torchvision and onnxruntime, in one run, after checking that all are right.

Every contestant gets the same arrays and the same number of threads. Results are compared with
those of cudeform in float64 first; if one is wrong it is not timed and the exit status is 1. Then
contestants take turns, so that whatever else the machine does meets them all. Peers that are not
installed are left out.

Ratios are a peer's time divided by cudeform's. GFLOP/s counts the matrix products only.

With --device gpu the contestants are cudeform and torchvision on tensors of torch, and two that
compute something else: cuDNN's ordinary convolution of the same shape, and the bare products. There
all that is right is timed, whatever else is wrong, and the JSON is written again as it grows.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import cudeform
from cudeform.commands import bench_configs, bench_gpu, bench_gpu_report, bench_peers, info
from cudeform.commands.bench_configs import Config, Problem
from cudeform.commands.bench_gpu_model import MODES
from cudeform.commands.bench_gpu_report import GpuReport
from cudeform.commands.bench_table import HEADINGS, Report, table
from cudeform.commands.bench_timing import LEAST_REPEATS, WrongResult, measure
from cudeform.gpu.overrides import ALGORITHMS, SCATTERS
from cudeform.options import available_threads

SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument(
        "--config",
        nargs="+",
        type=_configs,
        metavar="NAME",
        help=f"configurations, or sets of them: {', '.join(bench_configs.SETS)} "
        "(default: that of the device)",
    )
    parser.add_argument(
        "--direction", nargs="+", choices=HEADINGS, default=list(HEADINGS), help="(default: all)"
    )
    parser.add_argument(
        "--offsets",
        nargs="+",
        choices=bench_configs.OFFSETS,
        help="where taps point, instead of normal-2; several are measured one after the other",
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--mode", nargs="+", choices=MODES, default=list(MODES), help="on a GPU (default: all)"
    )
    parser.add_argument(
        "--path",
        nargs="*",
        choices=ALGORITHMS,
        default=list(ALGORITHMS),
        help="on a GPU, where cudeform takes part once more on each of these (default: all)",
    )
    parser.add_argument(
        "--scatter",
        nargs="*",
        choices=SCATTERS,
        default=list(SCATTERS),
        help="likewise in the backward, summing the gradient of the input so (default: all)",
    )
    parser.add_argument("--threads", type=_count, help="(default: one for each core)")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"time for each configuration and direction (default: {SECONDS:g}, on a GPU, where "
        f"it is also for each mode, {bench_gpu.SECONDS:g}); {LEAST_REPEATS} repeats are made even "
        "if they take longer",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=bench_gpu.DEADLINE,
        help="on a GPU, seconds after which nothing more is begun; what was skipped is named "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="as few repeats as can be, of tiny configurations"
    )
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write everything there")
    parser.add_argument(
        "--from", dest="report", type=_report, metavar="FILE", help="print the table of such a file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    if arguments.report is not None:
        print(_text(arguments.report))
        return 0
    usual = "quick" if arguments.quick else arguments.device
    chosen = arguments.config or [bench_configs.SETS[usual]]
    configs = [config for several in chosen for config in several]
    if arguments.offsets is not None:
        configs = [replace(c, offsets=offsets) for offsets in arguments.offsets for c in configs]
    try:
        report = _measured(arguments, configs)
    except (WrongResult, bench_gpu.NoGpu) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(_text(report))
    _write(arguments, report)
    return 1 if isinstance(report, GpuReport) and report.failures else 0


def _write(arguments: argparse.Namespace, report: Report | GpuReport) -> None:
    if arguments.json is not None:
        arguments.json.write_text(report.to_json() + "\n", encoding="utf-8")


def _measured(arguments: argparse.Namespace, configs: Sequence[Config]) -> Report | GpuReport:
    usual = bench_gpu.SECONDS if arguments.device == "gpu" else SECONDS
    seconds = arguments.seconds
    if seconds is None:
        seconds = 0.0 if arguments.quick else usual
    if arguments.device == "gpu":
        gpu = bench_gpu.torch_gpu(arguments.path, arguments.scatter)
        wanted = bench_gpu.Wanted(
            configs, arguments.direction, arguments.mode, seconds, arguments.deadline
        )
        return bench_gpu.measure_all(gpu, wanted, lambda report: _write(arguments, report))
    threads = arguments.threads or available_threads()
    return measure_all(configs, arguments.direction, threads, seconds)


def _text(report: Report | GpuReport) -> str:
    return table(report) if isinstance(report, Report) else bench_gpu_report.table(report)


def measure_all(
    configs: Sequence[Config], directions: Sequence[str], threads: int, seconds: float
) -> Report:
    """Check and time configurations.

    Args:
        configs: what to compute.
        directions: of "forward", "backward" and "both".
        threads: for every contestant.
        seconds: time for each configuration and direction.

    Raises:
        WrongResult: two contestants disagree.
    """
    absent = {name: bench_peers.absence(name) for name in bench_peers.CONTESTANTS}
    present = {name: c for name, c in bench_peers.CONTESTANTS.items() if absent[name] is None}
    measurements = []
    with _blas_threads(threads), _progress(len(configs) * len(directions)) as bar:
        machine = info.Machine.here()
        for config in configs:
            problem = Problem.of(config)
            calls = {name: contestant(problem, threads) for name, contestant in present.items()}
            exact = bench_peers.cudeform_calls(problem.astype(np.float64), threads)
            for direction in directions:
                bar.set_description(f"{config.name} {direction}")
                able = {name: of[direction] for name, of in calls.items() if direction in of}
                measurements.append(measure(config, direction, able, exact[direction](), seconds))
                bar.update()
    return Report(
        command=shlex.join(["python", "-m", "cudeform", *sys.argv[1:]]),
        date=datetime.now(UTC).isoformat(" ", "seconds"),
        threads=threads,
        versions={"cudeform": cudeform.__version__} | info.versions(),
        machine=machine,
        absent={name: why for name, why in absent.items() if why is not None},
        measurements=tuple(measurements),
    )


def _blas_threads(threads: int) -> AbstractContextManager[Any]:
    """Give NumPy's BLAS as many threads as everyone, where threadpoolctl is installed."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[Any] = threadpool_limits(threads, user_api="blas")
    return limits


class _NoBar:
    """Stands in for the progress bar where tqdm is not installed."""

    def set_description(self, text: str) -> None: ...

    def update(self) -> None: ...


def _progress(steps: int) -> AbstractContextManager[Any]:
    """A progress bar on stderr, where that is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return nullcontext(_NoBar())
    bar: AbstractContextManager[Any] = tqdm(total=steps, file=sys.stderr, disable=None)
    return bar


def _configs(name: str) -> tuple[Config, ...]:
    try:
        return bench_configs.named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _new_file(file: str) -> Path:
    if not Path(file).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(file).parent}")
    return Path(file)


def _report(file: str) -> Report | GpuReport:
    try:
        text = Path(file).read_text(encoding="utf-8")
        return GpuReport.from_json(text) if "gpu" in json.loads(text) else Report.from_json(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise argparse.ArgumentTypeError(f"{file} holds no results of bench") from None
