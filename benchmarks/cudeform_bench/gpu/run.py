"""A benchmark run on a GPU: every contestant in every configuration, mode and direction."""

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
from cudeform.commands import CommandError, info
from cudeform.gpu.overrides import ALGORITHMS, SCATTERS
from cudeform_bench.configs import Config, Problem
from cudeform_bench.gpu import contestants, forced
from cudeform_bench.gpu.model import MODES, Mode, rates_of, shares
from cudeform_bench.gpu.report import GpuMeasurement, GpuReport
from cudeform_bench.gpu.timing import Clock, measure_in_turns, workspace
from cudeform_bench.peers import torch_calls
from cudeform_bench.peers.torch_calls import Calls, Results

# With this default, fourteen configurations in four modes and three directions take less than ten
# minutes, including the start and the report.
SECONDS = 0.5
DEADLINE = 540.0

NEEDS = ("torch", "cupy")


class NoGpu(CommandError):
    """There is no GPU that torch and cudeform can use."""


@dataclass(frozen=True)
class Gpu:
    """The functions of the machine that a run needs; tests replace them.

    Attributes:
        name: name of the GPU.
        clock: measures times.
        tensors: copies a problem to the GPU in a dtype.
        set_tf32: allows or forbids TF32 for all contestants.
        contestants: by name, functions that make the calls of tensors and a mode, by direction.
        absent: for each contestant that cannot be measured, the reason.
        exact: makes calls with float64 results, by direction.
        error: computes the largest difference of results from exact ones.
        nbytes: computes the size of results in bytes.
        free: releases cached memory before the next configuration.
    """

    name: str
    clock: Clock
    tensors: Callable[[Problem, str], Any]
    set_tf32: Callable[[bool], None]
    contestants: dict[str, Callable[[Any, Mode], Calls]]
    absent: dict[str, str]
    exact: Callable[[Any], Calls]
    error: Callable[[Results, Results], float]
    nbytes: Callable[[Results], int]
    free: Callable[[], None]


def torch_gpu(paths: Sequence[str] = ALGORITHMS, scatters: Sequence[str] = SCATTERS) -> Gpu:
    """The first GPU, through torch.

    Args:
        paths: paths of cudeform to force and measure in addition.
        scatters: ways to sum grad_input to force and measure in addition.

    Raises:
        NoGpu: torch, CuPy or a GPU is missing.
    """
    if find_spec("torch") is None:
        raise NoGpu("bench: torch is not installed; --device gpu measures on its tensors")
    import torch

    if not torch.cuda.is_available():
        raise NoGpu(f"bench: torch {torch.__version__} finds no GPU; nvidia-smi lists the GPUs")
    lacking = [package for package in NEEDS if find_spec(package) is None]
    if lacking:
        raise NoGpu(f"bench: {' and '.join(lacking)} not installed; --device gpu needs it")
    found = {name: torch_calls.absence(name) for name in torch_calls.FUNCTIONS}
    absent = {name: why for name, why in found.items() if why is not None}
    return Gpu(
        name=torch.cuda.get_device_name(),
        clock=contestants.TorchClock(),
        tensors=lambda problem, dtype: contestants.Tensors.of(problem, dtype, "cuda"),
        set_tf32=contestants.set_tf32,
        contestants={n: c for n, c in contestants.CONTESTANTS.items() if n not in absent}
        | forced.contestants(_processor(torch), paths, scatters),
        absent=absent,
        exact=lambda tensors: exact_calls(tensors, absent),
        error=contestants.largest_error,
        nbytes=contestants.nbytes,
        free=torch.cuda.empty_cache,
    )


def _processor(torch: Any) -> forced.Processor:
    major, minor = torch.cuda.get_device_capability()
    count = torch.cuda.get_device_properties(0).multi_processor_count
    return forced.Processor(10 * major + minor, count)


def exact_calls(tensors: Any, absent: dict[str, str]) -> Calls:
    """Float64 calls on the rounded operands, of a library that shares no code with cudeform.

    Without torchvision the exact results of a convolution in two dimensions are cudeform's own.
    """
    name = "torchvision" if tensors.config.operator == "deform_conv2d" else "grid_sample"
    chosen = "cudeform" if name in absent else name
    return contestants.CONTESTANTS[chosen](tensors.to("float64"), MODES["fp32"])


@dataclass(frozen=True)
class Wanted:
    """The measurements that a run makes.

    Attributes:
        configs: the configurations.
        directions: directions, of "forward", "backward" and "both".
        modes: names in ``MODES``.
        seconds: time to spend on each configuration, direction and mode.
        deadline: seconds after the start from which no new measurement begins.
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

    A wrong result or an error appears in the report and is not timed. The run continues, so that
    one failure does not cost the other measurements.

    Args:
        gpu: the GPU.
        wanted: the measurements to make.
        keep: called with the report so far after each configuration, because a run may be killed.
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
    """The state of a run: the measurements so far."""

    def __init__(self, gpu: Gpu, wanted: Wanted) -> None:
        self._gpu, self._wanted = gpu, wanted
        self._started = time.perf_counter()
        # Computed once for all reports, because it reads the metadata of every installed package.
        self._versions = {"cudeform": cudeform.__version__} | info.versions()
        self._measurements: list[GpuMeasurement] = []
        self._failures: list[str] = []
        self._skipped: list[str] = []

    def measure(self, config: Config, mode: Mode, problem: Callable[[], Problem]) -> None:
        """Measure a configuration in a mode, in all directions until the deadline."""
        ready: tuple[dict[str, Calls], Calls] | None = None
        for direction in self._wanted.directions:
            where = f"{config.name} {direction} {mode.name}"
            if time.perf_counter() - self._started > self._wanted.deadline:
                self._skipped.append(where)
                continue
            print(where, file=sys.stderr)
            try:
                ready = ready or self._ready(problem(), mode)
                self._measure(config, mode, direction, *ready)
            except (
                Exception
            ) as error:  # CUDA errors have many types, and after some of them every call fails
                self._fail(f"{where} broke: {_in_a_line(error)}")

    def _ready(self, problem: Problem, mode: Mode) -> tuple[dict[str, Calls], Calls]:
        """Calls by contestant, and calls with exact results."""
        self._gpu.set_tf32(mode.tf32)
        tensors = self._gpu.tensors(problem, mode.dtype)
        calls = {name: of(tensors, mode) for name, of in self._gpu.contestants.items()}
        return calls, self._gpu.exact(tensors)

    def _measure(
        self,
        config: Config,
        mode: Mode,
        direction: str,
        calls: dict[str, Calls],
        exact: Calls,
    ) -> None:
        able = {name: of[direction] for name, of in calls.items() if direction in of}
        where = f"{config.name} {direction} {mode.name}"
        checked = check(self._gpu, where, mode, able, exact[direction]())
        for failure in checked.failures:
            self._fail(failure)
        if "cudeform" in checked.calls:  # ratios and lower bounds need its time
            seconds = self._wanted.seconds
            measured = _measured(self._gpu, config, mode, direction, checked, seconds)
            self._measurements.append(measured)

    def _fail(self, why: str) -> None:
        print(f"FAILED: {why}", file=sys.stderr)
        self._failures.append(why)

    def report(self) -> GpuReport:
        """The report of all measurements so far."""
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
    """The calls of a configuration that may be timed.

    Attributes:
        calls: by contestant, the calls whose results are right.
        errors: for contestants that compute the same results, the largest difference from float64.
        failures: texts about wrong results and errors.
    """

    calls: dict[str, Callable[[], Results]]
    errors: dict[str, float]
    failures: list[str]


def check(
    gpu: Gpu,
    where: str,
    mode: Mode,
    calls: dict[str, Callable[[], Results]],
    exact: Results,
) -> Checked:
    """Call every contestant once and compare its results with the exact ones.

    cudeform is timed only if its results are right. A peer is always timed, and its difference is
    reported: for float16, torchvision computes coordinates in float16, and no useful tolerance
    allows for that.
    """
    checked = Checked({}, {}, [])
    for name, call in calls.items():
        forced_one = forced.is_forced(name)
        try:
            results = call()
            if name in contestants.SAME or forced_one:
                checked.errors[name] = gpu.error(results, exact)
            gpu.clock.wait()  # the next synchronisation raises the errors of a kernel
        except Exception as broken:
            checked.failures.append(f"{name} broke at {where}: {_in_a_line(broken)}")
            continue
        error = checked.errors.get(name, 0.0)
        ours = name in contestants.OURS or forced_one
        if ours and not error <= mode.tolerance:  # also true if the error is NaN
            checked.failures.append(
                f"{name} is wrong at {where}: it differs from the float64 result by {error:.2g} of "
                f"its largest element, {mode.tolerance:g} is allowed; not timed"
            )
            continue
        checked.calls[name] = call
    return checked


def _in_a_line(error: Exception) -> str:
    """The type and the text of an error on one line."""
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
            if name not in contestants.ELSEWHERE
        },
        shares=shares(config, mode, direction, 1e3 * cold["cudeform"], rates_of(gpu.name)),
    )
