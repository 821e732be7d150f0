"""Host time of a GPU call, measured without a GPU: a stand-in for CuPy does nothing.

python benchmarks/host_time.py [--calls 300] [--replan] [--json FILE]

The measured time is that of cudeform's own Python code: checks, geometry, launch plans, arguments
of launches. A real call also spends time in CuPy and the driver, for allocations, launches and
products. To measure that time, a GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cudeform
from cudeform.gpu.replay import launch_plans
from cudeform_bench.configs import Config, Problem, named

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.cupy_stand_in import Cuda, CupyStandIn, install

SHAPES = ("A1", "A4", "B1", "C2", "C4")


def calls_of(cupy: CupyStandIn, config: Config) -> dict[str, Callable[[], Any]]:
    """The calls to time for a configuration, by name."""
    problem = Problem.of(config)
    arrays = {name: cupy.empty(of.shape, "float32") for name, of in problem.operands.items()}
    grad = cupy.empty(problem.grad_output.shape, "float32")
    sizes = config.settings

    def ordered() -> None:
        with cudeform.options(deterministic=True):
            cudeform.deform_conv2d_backward(grad, **arrays, **sizes)

    return {
        "forward": lambda: cudeform.deform_conv2d(**arrays, **sizes),
        "backward": lambda: cudeform.deform_conv2d_backward(grad, **arrays, **sizes),
        "deterministic backward": ordered,
    }


def microseconds(call: Callable[[], Any], calls: int, rounds: int = 7) -> float:
    """Processor time of one call in microseconds, the median over ``rounds``.

    Processor time does not depend on the load of the machine.
    """
    call()
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(calls):
            call()
        taken.append(1e6 * (time.process_time() - started) / calls)
    return statistics.median(taken)


def main() -> None:
    """Measure and print the host times."""
    parser = argparse.ArgumentParser(description="What a call costs the host, without a GPU.")
    parser.add_argument("--calls", type=int, default=300, help="in a round")
    parser.add_argument("--replan", action="store_true", help="make the plan of each call again")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    cupy = install(Cuda())
    if options.replan:
        launch_plans.PLANS.get = lambda _: None  # type: ignore[method-assign]
    found: dict[str, dict[str, float]] = {}
    for name in SHAPES:
        [config] = named(name)
        found[name] = {
            kind: microseconds(call, options.calls) for kind, call in calls_of(cupy, config).items()
        }
        taken = ", ".join(f"{kind} {us:.1f}" for kind, us in found[name].items())
        print(f"{name:4} {config.shape:28} us: {taken}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
