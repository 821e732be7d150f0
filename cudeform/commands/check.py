"""Check the GPU of this machine against the CPU engine.

Every operator of the table is called with CuPy arrays on the GPU and with the same NumPy arrays on
the CPU, in float16, float32 and float64: forward, backward, forward mode and double backward. The
calls use every algorithm and every kernel. A table shows the largest differences.

Exit status 0 if all results agree, 1 if one is wrong or a call fails, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import cudeform
from cudeform.commands import check_problems, gpus, info
from cudeform.commands.check_problems import Problem, Results
from cudeform.family import OPERATORS
from cudeform.gpu import overrides
from cudeform.gpu.cuda.device import GpuUnavailableError, usable_cupy

# Largest relative difference allowed. It covers the rounding of columns and results.
ALLOWED = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}

NO_GPU = """\
Found
  no GPU that cudeform can use

Works
  Nothing was checked: there is no GPU to compare with the CPU engine.
  The CPU engine needs none: python -m cudeform info tries it.

To do
{to_do}"""


@dataclass(frozen=True)
class Operation:
    """An operation to compare on both engines.

    Attributes:
        operator: name of the operator, whose problems are computed.
        call: function that computes the results of a problem.
        forced: algorithms to force on the GPU engine; the CPU engine has no such choice.
        deterministic: whether results must be bit-identical from run to run.
    """

    operator: str
    call: Callable[[Problem], Results]
    forced: dict[str, str] = field(default_factory=dict)
    deterministic: bool = False

    def __call__(self, problem: Problem) -> Results:
        """Compute the results for arrays on the GPU or on the CPU."""
        with overrides.force(**self.forced), cudeform.options(deterministic=self.deterministic):
            return self.call(problem)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(arguments: argparse.Namespace) -> int:
    """Compare all operations and print a table."""
    try:
        cupy = usable_cupy()
    except GpuUnavailableError as error:
        print(NO_GPU.format(to_do=info.wrapped("- ", f"{error}.")))
        return 2
    found = "; ".join((gpus.gpu(), *gpus.gpu_facts()))
    allowed = ", ".join(f"{most:.0e} in {dtype}" for dtype, most in ALLOWED.items())
    print(f"Found\n{info.wrapped('', found)}\n\nWorks")
    print(
        info.wrapped(
            "",
            "largest difference between the GPU and the CPU engine, as a share of the largest "
            f"value; allowed are {allowed}",
        )
    )
    print(f"\n{'':42}" + "".join(f"{dtype:>12}" for dtype in ALLOWED), flush=True)
    faults = [fault for name in OPERATIONS for fault in _row(cupy, name)]
    if not faults:
        print("\nAll results agree.\n\nTo do\n  - nothing")
        return 0
    print("\nSome results are wrong or missing:")
    print("\n".join(info.wrapped("", fault) for fault in faults))
    print("\nTo do\n  - please report all of this")
    return 1


def _row(cupy: Any, name: str) -> list[str]:
    """Print the row of an operation; return a text for each failure."""
    cells, faults = [], []
    for dtype, allowed in ALLOWED.items():
        # Compilers, the driver and libraries raise errors of many types. The table continues after
        # any of them, because the other cells show what works.
        try:
            error = _largest_error(cupy, OPERATIONS[name], dtype)
        except Exception as failure:
            cells.append("failed")
            faults.append(f"{name}, {dtype}: failed with {type(failure).__name__}: {failure}")
            continue
        cells.append(f"{error:.1e}")
        if not error <= allowed:  # also true if the error is NaN
            cells[-1] = f"WRONG {error:.0e}"
            faults.append(f"{name}, {dtype}: wrong by {error:.1e}, {allowed:.0e} is allowed")
    print(f"{name:42}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    return faults


def _largest_error(cupy: Any, operation: Operation, dtype: str) -> float:
    """The largest relative error of an operation over all problems; NaN if any error is NaN."""
    errors = [0.0]
    for problem in check_problems.problems(operation.operator, dtype):
        on_gpu = problem.map(cupy.asarray)
        for result, expected in zip(operation(on_gpu), operation(problem), strict=True):
            wanted = np.asarray(expected, np.float64)
            difference = np.abs(cupy.asnumpy(result).astype(np.float64) - wanted)
            errors.append(float(difference.max() / max(np.abs(wanted).max(), 1e-300)))
    return float(np.max(errors))


def _channels_last(problem: Problem) -> Results:
    image = problem.arrays["input"].transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    return check_problems.forward(problem._replace(arrays=problem.arrays | {"input": image}))


def _operations() -> dict[str, Operation]:
    """All operations by the names of their rows."""
    conv = "deform_conv2d"
    forward, backward = check_problems.forward, check_problems.backward
    operations = {
        f"{conv}, forward": Operation(conv, forward),
        f"{conv}, forward, channels last": Operation(conv, _channels_last),
        f"{conv}, forward, im2col": Operation(conv, forward, {"algorithm": "im2col"}),
        f"{conv}, forward, fused": Operation(conv, forward, {"algorithm": "fused"}),
        f"{conv}, backward": Operation(conv, backward),
        f"{conv}, backward, im2col": Operation(conv, backward, {"algorithm": "im2col"}),
        f"{conv}, backward, scalar additions": Operation(conv, backward, {"scatter": "scalar"}),
        f"{conv}, backward, deterministic": Operation(conv, backward, deterministic=True),
        f"{conv}, second order": Operation(conv, check_problems.second_order),
    }
    for name in OPERATORS:
        if name != conv:
            first = check_problems.first_order
            operations |= {
                name: Operation(name, first),
                f"{name}, deterministic": Operation(name, first, deterministic=True),
                f"{name}, second order": Operation(name, check_problems.second_order),
            }
    return operations


OPERATIONS = _operations()
