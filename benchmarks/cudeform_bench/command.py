"""Time cudeform and other libraries in one run, after checking that all results are right.

On a CPU the peers of deform_conv2d are torchvision and onnxruntime, those of the other convolutions
tvdcn and a composition of torch's grid_sample, and those of attention, DCNv3 and DCNv4 the
composition, eager and compiled. All contestants get the same arrays. First their
results are compared with cudeform's in float64; a wrong result ends the run with status 1. Then the
contestants take turns, so that a disturbance of the machine affects all of them. Peers that are
not installed are left out. Ratios are a peer's time divided by cudeform's; GFLOP/s counts the
matrix products only.

On a GPU (--device gpu) the contestants are cudeform and these peers on torch tensors, and two that
compute something else: cuDNN's ordinary convolution of the same shape, and the matrix products
alone. A wrong result is reported and not timed; the other contestants are still measured. The JSON
file is rewritten after each configuration.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from cudeform.commands import CommandError
from cudeform.commands.output_file import cannot_write, output_file
from cudeform.gpu.overrides import ALGORITHMS, SCATTERS
from cudeform_bench import configs
from cudeform_bench.configs import Config
from cudeform_bench.convolutions import OFFSETS
from cudeform_bench.cpu import report as cpu_report
from cudeform_bench.cpu import run as cpu
from cudeform_bench.cpu.report import Report
from cudeform_bench.cpu.timing import LEAST_REPEATS, WrongResult
from cudeform_bench.gpu import report as gpu_report
from cudeform_bench.gpu import run as gpu
from cudeform_bench.gpu.model import MODES
from cudeform_bench.gpu.report import GpuReport
from cudeform_bench.table import HEADINGS

# Options that have an effect on one device only.
ONLY = {"gpu": ("mode", "path", "scatter", "deadline"), "cpu": ("threads",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options. An option that is not given is None, so that ``run`` can tell."""
    parser.add_argument(
        "--config",
        nargs="+",
        type=_configs,
        metavar="NAME",
        help=f"configurations, or sets of them: {', '.join(configs.SETS)} "
        "(default: the set of the device)",
    )
    parser.add_argument("--direction", nargs="+", choices=HEADINGS, help="(default: all)")
    parser.add_argument(
        "--offsets",
        nargs="+",
        choices=OFFSETS,
        help="distributions of the offsets, measured one after the other (default: normal-2)",
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), help="(default: cpu)")
    parser.add_argument(
        "--mode", nargs="+", choices=MODES, help="GPU only: dtypes and products (default: all)"
    )
    parser.add_argument(
        "--path",
        nargs="*",
        choices=ALGORITHMS,
        help="GPU only: also time cudeform with these algorithms forced (default: all)",
    )
    parser.add_argument(
        "--scatter",
        nargs="*",
        choices=SCATTERS,
        help="GPU only: also time the backward with grad_input forced to be summed in these ways "
        "(default: all)",
    )
    parser.add_argument(
        "--threads",
        type=_count,
        help="CPU only: threads of every contestant (default: each library's own default)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        help=f"time for each configuration and direction (default: {cpu.SECONDS:g}), on a GPU also "
        f"for each mode (default: {gpu.SECONDS:g}); at least {LEAST_REPEATS} repeats are made",
    )
    parser.add_argument(
        "--deadline",
        type=_seconds,
        help="GPU only: seconds after which no further measurement is started; skipped ones are "
        f"listed (default: {gpu.DEADLINE:g})",
    )
    parser.add_argument(
        "--quick", action="store_true", default=None, help="tiny configurations, fewest repeats"
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write all samples there")
    parser.add_argument(
        "--from",
        dest="report",
        type=_report,
        metavar="FILE",
        help="print the tables of such a file",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print tables, write the JSON file.

    Returns:
        The exit status: 0, or 1 if a result was wrong.

    Raises:
        CommandError: an option would have no effect, there is no GPU, or the file is not writable.
    """
    refuse_useless(arguments)
    if arguments.report is not None:
        print(_text(arguments.report))
        return 0
    try:
        report = _measured(arguments)
    except WrongResult as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(_text(report))
    _write(arguments.json, report)
    return 1 if isinstance(report, GpuReport) and report.failures else 0


def refuse_useless(arguments: argparse.Namespace) -> None:
    """Reject options that would have no effect.

    Raises:
        CommandError: an option would have no effect.
    """
    given = [name for name in vars(arguments) if getattr(arguments, name) is not None]
    if arguments.report is not None:
        useless = [name for name in given if name not in ("command", "run", "report")]
        if useless:
            raise CommandError(
                f"bench: --{useless[0]} has no effect with --from, which measures nothing"
            )
    device = _device(arguments)
    [other] = set(ONLY) - {device}
    for name in ONLY[other]:
        if name in given:
            raise CommandError(
                f"bench: --{name} has no effect on a {device.upper()}; it needs --device {other}"
            )
    for config in _configurations(arguments):
        undefined = set(arguments.offsets or ()) - set(config.distributions)
        if undefined:
            raise CommandError(
                f"bench: --offsets {min(undefined)} is not defined for {config.name}, which takes "
                f"{', '.join(config.distributions)}"
            )
    adding = {config.scatter_direction for config in _configurations(arguments)}
    if arguments.scatter and not adding & set(_directions(arguments)):
        raise CommandError(
            f"bench: --scatter has no effect without --direction {' or '.join(sorted(adding))}"
        )


def _device(arguments: argparse.Namespace) -> str:
    return str(arguments.device or "cpu")


def _directions(arguments: argparse.Namespace) -> list[str]:
    return arguments.direction or list(HEADINGS)


def _configurations(arguments: argparse.Namespace) -> list[Config]:
    usual = "quick" if arguments.quick else _device(arguments)
    chosen: list[tuple[Config, ...]] = arguments.config or [configs.SETS[usual]]
    return [config for several in chosen for config in several]


def _measured(arguments: argparse.Namespace) -> Report | GpuReport:
    device, directions = _device(arguments), _directions(arguments)
    problems = _configurations(arguments)
    if arguments.offsets is not None:
        problems = [replace(c, offsets=offsets) for offsets in arguments.offsets for c in problems]
    seconds = arguments.seconds
    if seconds is None:
        usual = gpu.SECONDS if device == "gpu" else cpu.SECONDS
        seconds = 0.0 if arguments.quick else usual
    if device == "cpu":
        return cpu.measure_all(problems, directions, arguments.threads, seconds)
    paths = ALGORITHMS if arguments.path is None else arguments.path
    scatters = SCATTERS if arguments.scatter is None else arguments.scatter
    wanted = gpu.Wanted(
        problems,
        directions,
        arguments.mode or list(MODES),
        seconds,
        arguments.deadline or gpu.DEADLINE,
    )

    def keep(report: GpuReport) -> None:
        try:
            _write(arguments.json, report)
        except CommandError as error:  # the run continues; only the last write must succeed
            print(error, file=sys.stderr)

    return gpu.measure_all(gpu.torch_gpu(paths, scatters), wanted, keep)


def _text(report: Report | GpuReport) -> str:
    return cpu_report.text(report) if isinstance(report, Report) else gpu_report.text(report)


def _write(file: Path | None, report: Report | GpuReport) -> None:
    if file is None:
        return
    try:
        file.write_text(report.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise cannot_write(file, error) from None


def _configs(name: str) -> tuple[Config, ...]:
    try:
        return configs.named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text!r}")
    return seconds


def _report(file: str) -> Report | GpuReport:
    try:
        text = Path(file).read_text(encoding="utf-8")
        fields: dict[str, Any] = json.loads(text)
        return GpuReport.from_json(text) if "gpu" in fields else Report.from_json(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise argparse.ArgumentTypeError(f"{file} holds no results of bench") from None
