"""A stand-in for a GPU in tests of the benchmark: an artificial clock, computations on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cudeform_bench.configs import QUICK, Config, Problem
from cudeform_bench.cpu.contestants import cudeform_calls
from cudeform_bench.cpu.timing import largest_error
from cudeform_bench.gpu import run
from cudeform_bench.gpu.report import GpuReport
from cudeform_bench.gpu.run import Gpu, Wanted

SMALL = QUICK[0]


class FakeClock:
    """Each event is 1 ms after the last one, 3 ms if the cache was flushed since."""

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


def report_of(
    gpu: Gpu,
    configs: Sequence[Config] = (SMALL,),
    directions: Sequence[str] = ("forward",),
    modes: Sequence[str] = ("fp16",),
    **rest: Any,
) -> GpuReport:
    """A report with the fewest repeats."""
    return run.measure_all(gpu, Wanted(configs, directions, modes, 0.0, **rest))
