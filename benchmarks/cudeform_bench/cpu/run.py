"""A benchmark run on a CPU: every contestant in every configuration and direction."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cudeform
from cudeform.commands import info
from cudeform.commands.machine import Machine
from cudeform_bench.configs import Config, Problem
from cudeform_bench.cpu import contestants
from cudeform_bench.cpu.report import Report
from cudeform_bench.cpu.timing import measure
from cudeform_bench.table import OURS

SECONDS = 10.0


def measure_all(
    configs: Sequence[Config], directions: Sequence[str], threads: int | None, seconds: float
) -> Report:
    """Check and time configurations.

    Args:
        configs: the configurations to measure.
        directions: directions to measure, of "forward", "backward" and "both".
        threads: number of threads of every contestant; None for each library's default, which is
            what users have.
        seconds: time to spend on each configuration and direction.

    Raises:
        WrongResult: two contestants disagree.
    """
    absent = {name: contestants.absence(name) for name in contestants.CONTESTANTS}
    present = {name: c for name, c in contestants.CONTESTANTS.items() if absent[name] is None}
    measurements = []
    with _blas_threads(threads), _progress(len(configs) * len(directions)) as bar:
        machine = Machine.here()
        for config in configs:
            problem = Problem.of(config)
            calls = {
                name: contestant.calls(problem, threads) for name, contestant in present.items()
            }
            exact = contestants.cudeform_calls(problem.astype(np.float64), threads)
            for direction in directions:
                bar.set_description(f"{config.name} {direction}")
                able = {name: by[direction] for name, by in calls.items() if direction in by}
                profile = present[OURS].profile
                shares = profile(problem, direction) if profile else {}
                measured = measure(config, direction, able, exact[direction](), seconds, shares)
                measurements.append(measured)
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


def _blas_threads(threads: int | None) -> AbstractContextManager[Any]:
    """Limit NumPy's BLAS to ``threads``; None sets no limit."""
    if threads is None:
        return nullcontext()
    limits: AbstractContextManager[Any] = threadpool_limits(threads, user_api="blas")
    return limits


class _NoBar:
    """Replaces the progress bar if tqdm is not installed."""

    def set_description(self, text: str) -> None: ...

    def update(self) -> None: ...


def _progress(steps: int) -> AbstractContextManager[Any]:
    """A progress bar on stderr if it is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return nullcontext(_NoBar())
    bar: AbstractContextManager[Any] = tqdm(total=steps, file=sys.stderr, disable=None)
    return bar
