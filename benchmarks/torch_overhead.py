"""The time of a call with PyTorch tensors, compared with NumPy arrays over the same memory.

python benchmarks/torch_overhead.py [--calls 50] [--rounds 61] [--json FILE]

The problem is tiny and runs on one thread, so the overhead around the engine dominates. Contestants
take turns. Times are medians of single calls. In a second run the engine is replaced by functions
that do nothing. Then all code stays in the processor's cache; otherwise the engine evicts it.
Two contestants show the overhead of torch itself. One makes the calls with NumPy arrays, then a
product of two tensors and its gradients. The other makes the calls with NumPy arrays inside a
minimal ``autograd.Function``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cudeform
from cudeform import engine

IMAGE, OFFSET = np.ones((1, 1, 8, 8), np.float32), np.zeros((1, 2, 8, 8), np.float32)
ARRAYS = IMAGE, OFFSET, np.ones((1, 1, 1, 1), np.float32)
TENSORS = [torch.from_numpy(array) for array in ARRAYS]
LEAVES = [tensor.detach().requires_grad_() for tensor in TENSORS]
ONES = torch.ones(IMAGE.shape)
NEEDS = ("input", "offset", "weight")
FORWARD, BOTH = "forward", "forward and backward"
GOALS = {FORWARD: 15, BOTH: 40}  # microseconds more than with NumPy arrays

Times = dict[str, float]


class Minimal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        return torch.from_numpy(cudeform.deform_conv2d(*(t.detach().numpy() for t in tensors)))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        arrays = (t.detach().numpy() for t in ctx.saved_tensors)
        grads = cudeform.deform_conv2d_backward(grad.numpy(), *arrays, needs=NEEDS)
        return tuple(map(torch.from_numpy, grads[:3]))


def numpy_both() -> None:
    cudeform.deform_conv2d(*ARRAYS)
    cudeform.deform_conv2d_backward(IMAGE, *ARRAYS, needs=NEEDS)


def product() -> None:
    torch.autograd.grad(LEAVES[0] * LEAVES[2], (LEAVES[0], LEAVES[2]), ONES)


CONTESTANTS: dict[str, Callable[[], Any]] = {
    f"NumPy: {FORWARD}": lambda: cudeform.deform_conv2d(*ARRAYS),
    f"torch: {FORWARD}": lambda: cudeform.deform_conv2d(*TENSORS),
    f"NumPy: {BOTH}": numpy_both,
    f"torch: {BOTH}": lambda: torch.autograd.grad(cudeform.deform_conv2d(*LEAVES), LEAVES, ONES),
    f"NumPy, and a product: {BOTH}": lambda: (numpy_both(), product()),
    f"NumPy in a Function: {BOTH}": lambda: torch.autograd.grad(
        Minimal.apply(*LEAVES), LEAVES, ONES
    ),
}


def timed(calls: int, rounds: int) -> Times:
    """Median microseconds per call; the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for index in range(rounds + 1):
        for name, function in CONTESTANTS.items():
            for _ in range(calls):
                start = time.perf_counter()
                function()
                if index:
                    times[name].append((time.perf_counter() - start) * 1e6)
    return {name: round(statistics.median(each), 1) for name, each in times.items()}


def measured(calls: int, rounds: int) -> dict[str, Times]:
    """Times with the engine and without it."""
    torch.set_num_threads(1)
    with cudeform.options(num_threads=1):
        with_engine = timed(calls, rounds)
        engine.forward = engine.backward = lambda *_: None  # type: ignore[assignment]
        return {"with the engine": with_engine, "the engine left out": timed(calls, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50, help="of each contestant in a row")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--json", type=Path, help="where to write the times")
    arguments = parser.parse_args()

    results = measured(arguments.calls, arguments.rounds)
    print(f"torch {torch.__version__}, microseconds a call (over NumPy)")
    for title, times in results.items():
        print(title)
        for name, microseconds in times.items():
            more = microseconds - times[f"NumPy: {name.partition(': ')[2]}"]
            print(f"  {name:42} {microseconds:7.1f}  (+{more:.1f})")
    print(f"goals over NumPy: {GOALS}")
    if arguments.json:
        record = {
            "command": " ".join(sys.argv),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "unit": "microseconds a call, median",
            "goals over NumPy": GOALS,
            "times": results,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
