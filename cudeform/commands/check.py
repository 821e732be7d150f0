"""Check the GPU of this machine: every operation and kernel against the CPU engine, by dtype.

Exit status 0 if all agree, 1 if one does not, 2 if there is no GPU to check.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import cudeform
from cudeform.arrays import Tangents
from cudeform.commands import gpus, info
from cudeform.gpu.cuda.device import GpuUnavailableError, usable_cupy

# Largest difference allowed, of the largest value: one rounding of columns and result each.
ALLOWED = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}

NO_GPU = """\
Found
  no GPU that cudeform can use

Works
  Nothing was checked, there is no GPU to compare with the CPU engine.
  The CPU engine needs none: python -m cudeform info tries it.

To do
{to_do}"""

Arrays = dict[str, Any]
Operation = Callable[[Arrays], list[Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes none."""


def run(arguments: argparse.Namespace) -> int:
    """Check and print a table."""
    try:
        cupy = usable_cupy()
    except GpuUnavailableError as error:
        print(NO_GPU.format(to_do=info.wrapped("- ", f"{error}.")))
        return 2
    found = "; ".join((gpus.gpu(), *gpus.gpu_facts()))
    print(f"Found\n{info.wrapped('', found)}\n\nWorks")
    print("  largest difference from the CPU engine, as a share of the largest value\n")
    print(f"{'':34}" + "".join(f"{dtype:>12}" for dtype in ALLOWED))
    right = True
    for name, operation in OPERATIONS.items():
        errors = {dtype: _worst(cupy, operation, dtype) for dtype in ALLOWED}
        cells = "".join(f"{error:>12.1e}" for error in errors.values())
        wrong = [dtype for dtype, error in errors.items() if not error <= ALLOWED[dtype]]
        print(f"{name:34}{cells}{'   WRONG: ' + ', '.join(wrong) if wrong else ''}")
        right = right and not wrong
    print("\nAll agree." if right else "\nSome results are wrong.")
    print(f"\nTo do\n  - {'nothing' if right else 'please report all of this'}")
    return 0 if right else 1


def _worst(cupy: Any, operation: Operation, dtype: str) -> float:
    """The largest error of an operation over all problems."""
    errors = [0.0]
    for arrays in _problems(dtype):
        there = {name: cupy.asarray(array) for name, array in arrays.items()}
        for got, wanted in zip(operation(there), operation(arrays), strict=True):
            wanted = np.asarray(wanted, np.float64)
            difference = np.abs(cupy.asnumpy(got).astype(np.float64) - wanted)
            errors.append(float(difference.max() / max(np.abs(wanted).max(), 1e-300)))
    return max(errors)


def _problems(dtype: str) -> Iterator[Arrays]:
    """Calls that between them use every kernel: 16-byte accesses or not, one group or several."""
    rng = np.random.default_rng(0)
    for channels, groups, offset_groups in ((16, 1, 1), (32, 2, 2), (6, 3, 2), (8, 8, 1)):
        shapes = {
            "grad_output": (3, 2 * channels, 13, 11),
            "input": (3, channels, 13, 11),
            "offset": (3, 18 * offset_groups, 13, 11),
            "weight": (2 * channels, channels // groups, 3, 3),
            "bias": (2 * channels,),
            "mask": (3, 9 * offset_groups, 13, 11),
        }
        arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        # Coordinates that are exact in half precision: both engines stand in the same cell.
        arrays["offset"] = np.round(arrays["offset"] * 8) / 8 + 1 / 16
        yield {name: array.astype(dtype) for name, array in arrays.items()}


def _forward(arrays: Arrays) -> list[Any]:
    return [cudeform.deform_conv2d(**_without(arrays, "grad_output"), padding=1)]


def _backward(arrays: Arrays) -> list[Any]:
    return list(cudeform.deform_conv2d_backward(**arrays, padding=1))


def _deterministic(arrays: Arrays) -> list[Any]:
    with cudeform.options(deterministic=True):
        return _backward(arrays)


def _jvp(arrays: Arrays) -> list[Any]:
    arrays = _without(arrays, "grad_output")
    return [cudeform.deform_conv2d_jvp(Tangents(**arrays), **arrays, padding=1)]


def _double_backward(arrays: Arrays) -> list[Any]:
    cotangents = Tangents(**_without(arrays, "grad_output"))
    return list(cudeform.deform_conv2d_double_backward(cotangents, **arrays, padding=1))


def _channels_last(arrays: Arrays) -> list[Any]:
    image = arrays["input"].transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    return _forward(arrays | {"input": image})


def _without(arrays: Arrays, name: str) -> Arrays:
    return {other: array for other, array in arrays.items() if other != name}


OPERATIONS: dict[str, Operation] = {
    "forward": _forward,
    "forward, channels last": _channels_last,
    "backward": _backward,
    "backward, deterministic": _deterministic,
    "forward mode": _jvp,
    "double backward": _double_backward,
}
