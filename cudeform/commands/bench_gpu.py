"""``bench --device gpu``: check, then time, every contestant on a GPU. The calls are in others."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import cudeform
from cudeform.commands import bench_gpu_forced as forced
from cudeform.commands import bench_gpu_peers as peers
from cudeform.commands import info
from cudeform.commands.bench_configs import Config, Problem
from cudeform.commands.bench_gpu_model import MODES, RATES, Mode, shares
from cudeform.commands.bench_gpu_report import GpuMeasurement, GpuReport
from cudeform.commands.bench_gpu_timing import Clock, measure_in_turns, workspace
from cudeform.commands.bench_timing import WrongResult
from cudeform.gpu.paths import FORWARD
from cudeform.gpu.scatter import SCATTERS

# Fourteen configurations, four modes and three directions are meant to fit into ten minutes.
SECONDS = 0.5

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


def torch_gpu(paths: Sequence[str] = FORWARD, scatters: Sequence[str] = SCATTERS) -> Gpu:
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


def measure_all(
    gpu: Gpu,
    configs: Sequence[Config],
    directions: Sequence[str],
    modes: Sequence[str],
    seconds: float,
) -> GpuReport:
    """Check and time configurations.

    Args:
        gpu: where.
        configs: what to compute.
        directions: of "forward", "backward" and "both".
        modes: names in ``MODES``.
        seconds: time for each configuration, direction and mode.

    Raises:
        WrongResult: cudeform differs from float64 by more than rounding.
    """
    measurements = []
    for config in configs:
        problem = Problem.of(config)
        for mode in (MODES[name] for name in modes):
            gpu.set_tf32(mode.tf32)
            tensors = gpu.tensors(problem, mode.dtype)
            exact = gpu.exact(tensors)
            calls = {name: of(tensors, mode) for name, of in gpu.contestants.items()}
            for direction in directions:
                print(f"{config.name} {mode.name} {direction}", file=sys.stderr)
                able = {name: of[direction] for name, of in calls.items() if direction in of}
                errors = check(gpu, config, mode, direction, able, exact[direction]())
                measurements.append(_measured(gpu, config, mode, direction, able, errors, seconds))
            del tensors, exact, calls
            gpu.free()
    return GpuReport(
        command=shlex.join(["python", "-m", "cudeform", *sys.argv[1:]]),
        date=datetime.now(UTC).isoformat(" ", "seconds"),
        gpu=gpu.name,
        versions={"cudeform": cudeform.__version__} | info.versions(),
        rates=RATES,
        tolerances={mode.name: mode.tolerance for mode in MODES.values()},
        absent=gpu.absent,
        measurements=tuple(measurements),
    )


def check(
    gpu: Gpu,
    config: Config,
    mode: Mode,
    direction: str,
    calls: dict[str, Callable[[], peers.Results]],
    exact: peers.Results,
) -> dict[str, float]:
    """Errors of all that compute the same. A peer's are reported; one of ours ends the run.

    torchvision works out coordinates in float16 where that is the dtype, which no tolerance that
    means anything would let pass.

    Raises:
        WrongResult: ours differ by more than rounding.
    """
    same = [name for name in calls if name in peers.SAME or forced.is_forced(name)]
    errors = {name: gpu.error(calls[name](), exact) for name in same}
    for name in same:
        ours = name in peers.OURS or forced.is_forced(name)
        if ours and not errors[name] <= mode.tolerance:  # true of NaN, too
            raise WrongResult(
                f"{name} is wrong at {config.name} {direction} {mode.name}: it differs from the "
                f"float64 result by {errors[name]:.2g} of its largest element, "
                f"{mode.tolerance:g} is allowed; not timed"
            )
    return errors


def _measured(
    gpu: Gpu,
    config: Config,
    mode: Mode,
    direction: str,
    calls: dict[str, Callable[[], peers.Results]],
    errors: dict[str, float],
    seconds: float,
) -> GpuMeasurement:
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
        errors=errors,
        workspace_mib={
            name: workspace(gpu.clock, call, gpu.nbytes) / 2**20 for name, call in calls.items()
        },
        shares=shares(config, mode, direction, 1e3 * cold["cudeform"]),
    )
