"""``bench --device gpu``: check, then time, every contestant on a GPU. The calls are in others."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import cudeform
from cudeform.commands import bench_gpu_forced as forced
from cudeform.commands import bench_gpu_peers as peers
from cudeform.commands import info
from cudeform.commands.bench_configs import Config, Problem
from cudeform.commands.bench_gpu_model import MODES, Mode, rates_of, shares
from cudeform.commands.bench_gpu_report import GpuMeasurement, GpuReport
from cudeform.commands.bench_gpu_timing import Clock, measure_in_turns, workspace
from cudeform.gpu.overrides import ALGORITHMS, SCATTERS

# Fourteen configurations, four modes and three directions are meant to fit into ten minutes, with
# what it takes to start and to end.
SECONDS = 0.5
DEADLINE = 540.0

NEEDS = {"cudeform": ("torch", "cupy"), "torchvision": ("torch", "torchvision")}


class NoGpu(Exception):
    """There is nothing to measure on."""


@dataclass(frozen=True)
class Gpu:
    """What a run needs of the machine; tests give another.

    Attributes:
        name: of the GPU.
        clock: measures.
        tensors: puts a problem onto it, in a dtype.
        set_tf32: for everyone.
        contestants: calls by direction, of tensors in a mode.
        absent: contestants that cannot take part, and why.
        exact: results in float64 by direction.
        error: largest error of results against exact ones.
        nbytes: of results.
        free: gives memory back before the next configuration.
    """

    name: str
    clock: Clock
    tensors: Callable[[Problem, str], Any]
    set_tf32: Callable[[bool], None]
    contestants: dict[str, Callable[[Any, Mode], peers.Calls]]
    absent: dict[str, str]
    exact: Callable[[Any], peers.Calls]
    error: Callable[[peers.Results, peers.Results], float]
    nbytes: Callable[[peers.Results], int]
    free: Callable[[], None]


def torch_gpu(paths: Sequence[str] = ALGORITHMS, scatters: Sequence[str] = SCATTERS) -> Gpu:
    """The first GPU, through torch.

    Args:
        paths: on each of which cudeform takes part once more, forced.
        scatters: likewise, in the backward.

    Raises:
        NoGpu: torch or a GPU is missing.
    """
    if find_spec("torch") is None:
        raise NoGpu("torch is not installed, and bench on a GPU works on its tensors")
    import torch

    if not torch.cuda.is_available():
        raise NoGpu(f"torch {torch.__version__} finds no GPU; nvidia-smi shows what there is")
    lacking = {
        name: [library for library in libraries if find_spec(library) is None]
        for name, libraries in NEEDS.items()
    }
    absent = {name: f"{' and '.join(of)} not installed" for name, of in lacking.items() if of}
    if "cudeform" in absent:
        raise NoGpu(absent["cudeform"])
    return Gpu(
        name=torch.cuda.get_device_name(),
        clock=peers.TorchClock(),
        tensors=lambda problem, dtype: peers.Tensors.of(problem, dtype, "cuda"),
        set_tf32=peers.set_tf32,
        contestants={n: c for n, c in peers.CONTESTANTS.items() if n not in absent}
        | forced.contestants(_processor(torch), paths, scatters),
        absent=absent,
        exact=lambda tensors: exact_calls(tensors, absent),
        error=peers.largest_error,
        nbytes=peers.nbytes,
        free=torch.cuda.empty_cache,
    )


def _processor(torch: Any) -> forced.Processor:
    major, minor = torch.cuda.get_device_capability()
    count = torch.cuda.get_device_properties(0).multi_processor_count
    return forced.Processor(10 * major + minor, count)


def exact_calls(tensors: Any, absent: dict[str, str]) -> peers.Calls:
    """In float64, of the operands as they were rounded: by torchvision, which shares no code."""
    name = "cudeform" if "torchvision" in absent else "torchvision"
    return peers.CONTESTANTS[name](tensors.to("float64"), MODES["fp32"])


@dataclass(frozen=True)
class Wanted:
    """What a run shall measure.

    Attributes:
        configs: what to compute.
        directions: of "forward", "backward" and "both".
        modes: names in ``MODES``.
        seconds: time for each configuration, direction and mode.
        deadline: seconds from the start after which none of these is begun.
    """

    configs: Sequence[Config]
    directions: Sequence[str]
    modes: Sequence[str]
    seconds: float
    deadline: float = DEADLINE


def measure_all(
    gpu: Gpu, wanted: Wanted, keep: Callable[[GpuReport], None] = lambda report: None
) -> GpuReport:
    """Check and time configurations.

    What is wrong or breaks is named in the report and not timed; all else is measured still: time
    on a GPU is dear, and the first run on a new one shall tell as much as it can.

    Args:
        gpu: where.
        wanted: what.
        keep: is given the report again and again as it grows, since the run may be killed.
    """
    run = _Run(gpu, wanted)
    for config in wanted.configs:
        problem = cache(partial(Problem.of, config))
        for mode in (MODES[name] for name in wanted.modes):
            run.measure(config, mode, problem)
            gpu.free()
        keep(run.report())
    return run.report()


class _Run:
    """What was measured so far."""

    def __init__(self, gpu: Gpu, wanted: Wanted) -> None:
        """Start the clock."""
        self._gpu, self._wanted = gpu, wanted
        self._started = time.perf_counter()
        # Asked once: it looks at every package that is installed.
        self._versions = {"cudeform": cudeform.__version__} | info.versions()
        self._measurements: list[GpuMeasurement] = []
        self._failures: list[str] = []
        self._skipped: list[str] = []

    def measure(self, config: Config, mode: Mode, problem: Callable[[], Problem]) -> None:
        """Measure a configuration in a mode, in all directions for which there is time."""
        ready: tuple[dict[str, peers.Calls], peers.Calls] | None = None
        for direction in self._wanted.directions:
            where = f"{config.name} {direction} {mode.name}"
            if time.perf_counter() - self._started > self._wanted.deadline:
                self._skipped.append(where)
                continue
            print(where, file=sys.stderr)
            try:
                ready = ready or self._ready(problem(), mode)
                self._measure(config, mode, direction, *ready)
            except Exception as error:  # an error on a GPU may take everything with it
                self._fail(f"{where} broke: {_in_a_line(error)}")

    def _ready(self, problem: Problem, mode: Mode) -> tuple[dict[str, peers.Calls], peers.Calls]:
        """Calls by contestant, and exact ones."""
        self._gpu.set_tf32(mode.tf32)
        tensors = self._gpu.tensors(problem, mode.dtype)
        calls = {name: of(tensors, mode) for name, of in self._gpu.contestants.items()}
        return calls, self._gpu.exact(tensors)

    def _measure(
        self,
        config: Config,
        mode: Mode,
        direction: str,
        calls: dict[str, peers.Calls],
        exact: peers.Calls,
    ) -> None:
        able = {name: of[direction] for name, of in calls.items() if direction in of}
        where = f"{config.name} {direction} {mode.name}"
        checked = check(self._gpu, where, mode, able, exact[direction]())
        for failure in checked.failures:
            self._fail(failure)
        if "cudeform" in checked.calls:  # all else is told in relation to it
            seconds = self._wanted.seconds
            measured = _measured(self._gpu, config, mode, direction, checked, seconds)
            self._measurements.append(measured)

    def _fail(self, why: str) -> None:
        print(f"FAILED: {why}", file=sys.stderr)
        self._failures.append(why)

    def report(self) -> GpuReport:
        """All of it."""
        return GpuReport(
            command=shlex.join(["python", "-m", "cudeform", *sys.argv[1:]]),
            date=datetime.now(UTC).isoformat(" ", "seconds"),
            gpu=self._gpu.name,
            versions=self._versions,
            rates=rates_of(self._gpu.name),
            tolerances={mode.name: mode.tolerance for mode in MODES.values()},
            absent=self._gpu.absent,
            measurements=tuple(self._measurements),
            failures=tuple(self._failures),
            skipped=tuple(self._skipped),
        )


@dataclass
class Checked:
    """What may be timed.

    Attributes:
        calls: those that ran and are right, by contestant.
        errors: largest difference to float64, of all that compute the same.
        failures: what is wrong or broke, in words.
    """

    calls: dict[str, Callable[[], peers.Results]]
    errors: dict[str, float]
    failures: list[str]


def check(
    gpu: Gpu,
    where: str,
    mode: Mode,
    calls: dict[str, Callable[[], peers.Results]],
    exact: peers.Results,
) -> Checked:
    """Call everyone once. A peer's error is reported and it is timed; ours must be right.

    torchvision works out coordinates in float16 where that is the dtype, which no tolerance that
    means anything would let pass.
    """
    checked = Checked({}, {}, [])
    for name, call in calls.items():
        forced_one = forced.is_forced(name)
        try:
            results = call()
            if name in peers.SAME or forced_one:
                checked.errors[name] = gpu.error(results, exact)
            gpu.clock.wait()  # what breaks on the GPU is told to whoever waits for it
        except Exception as error:
            checked.failures.append(f"{name} broke at {where}: {_in_a_line(error)}")
            continue
        off = checked.errors.get(name, 0.0)
        if (name in peers.OURS or forced_one) and not off <= mode.tolerance:  # true of NaN, too
            checked.failures.append(
                f"{name} is wrong at {where}: it differs from the float64 result by {off:.2g} of "
                f"its largest element, {mode.tolerance:g} is allowed; not timed"
            )
            continue
        checked.calls[name] = call
    return checked


def _in_a_line(error: Exception) -> str:
    """An error as part of a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _measured(
    gpu: Gpu,
    config: Config,
    mode: Mode,
    direction: str,
    checked: Checked,
    seconds: float,
) -> GpuMeasurement:
    calls = checked.calls
    samples = measure_in_turns(gpu.clock, calls, seconds)
    medians = {name: taken.medians for name, taken in samples.items()}
    cold = {name: of[1] for name, of in medians.items()}
    return GpuMeasurement(
        config=config,
        direction=direction,
        mode=mode.name,
        samples_ms={
            "warm": {name: taken.warm_ms for name, taken in samples.items()},
            "cold": {name: taken.cold_ms for name, taken in samples.items()},
        },
        median_ms={"warm": {name: of[0] for name, of in medians.items()}, "cold": cold},
        host_us={name: of[2] for name, of in medians.items()},
        errors=checked.errors,
        workspace_mib={
            name: workspace(gpu.clock, call, gpu.nbytes) / 2**20
            for name, call in calls.items()
            if name not in peers.ELSEWHERE
        },
        shares=shares(config, mode, direction, 1e3 * cold["cudeform"], rates_of(gpu.name)),
    )
