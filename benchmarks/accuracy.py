"""Errors of float32 gradients, relative to float64: cudeform's compared with torchvision's.

    pip install torch torchvision
    python benchmarks/accuracy.py

A coordinate is an integer plus an offset. cudeform keeps the two apart, so that the fraction has
all digits of the offset. torchvision rounds their sum to float32, so a larger coordinate has fewer
digits for the fraction. If the sum rounds to an integer, the slope of the sample is computed from
other pixels; for this reason the error of the offset's gradient jumps.

Both libraries get the same arrays. The reference is torchvision in float64. The last column is the
error of cudeform in float64. Errors are root mean squares, divided by the root mean square of the
gradient.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torchvision

import cudeform

SIZES = (20, 80, 320, 1280)
NAMES = ("input", "offset", "weight", "mask")
WIDTH, CHANNELS = 64, 8

Arrays = dict[str, Any]


def problem(size: int) -> Arrays:
    """An image of ``size`` rows whose samples are displaced by N(0, 2) pixels, in float32."""
    rng = np.random.default_rng(0)
    arrays = {
        "grad_output": rng.standard_normal((1, CHANNELS, size, WIDTH)),
        "input": rng.standard_normal((1, CHANNELS, size, WIDTH)),
        "offset": rng.normal(0, 2, (1, 18, size, WIDTH)),
        "weight": rng.standard_normal((CHANNELS, CHANNELS, 3, 3)),
        "mask": rng.random((1, 9, size, WIDTH)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def by_cudeform(arrays: Arrays) -> Arrays:
    grads = cudeform.deform_conv2d_backward(**arrays, padding=1)
    return {name: getattr(grads, name) for name in NAMES}


def by_torchvision(arrays: Arrays) -> Arrays:
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    grad_output = tensors.pop("grad_output").detach()
    output = torchvision.ops.deform_conv2d(**tensors, padding=1)
    grads = torch.autograd.grad(output, [tensors[name] for name in NAMES], grad_output)
    return {name: grad.numpy() for name, grad in zip(NAMES, grads, strict=True)}


def errors(size: int) -> dict[str, tuple[float, float, float]]:
    """The errors of cudeform, of torchvision and of cudeform in float64, for each gradient."""
    single = problem(size)
    double = {name: array.astype(np.float64) for name, array in single.items()}
    reference = by_torchvision(double)
    contestants = by_cudeform(single), by_torchvision(single), by_cudeform(double)

    def error(grads: Arrays, name: str) -> float:
        difference = grads[name].astype(np.float64) - reference[name]
        return float(np.sqrt((difference**2).mean() / (reference[name] ** 2).mean()))

    return {name: tuple(error(grads, name) for grads in contestants) for name in NAMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="heights of the image")
    print("  rows gradient  cudeform  torchvision    ratio   float64")
    for size in parser.parse_args().rows:
        for name, (ours, theirs, double) in errors(size).items():
            print(
                f"{size:6} {name:8} {ours:9.1e} {theirs:12.1e} {theirs / ours:8.0f} {double:9.1e}"
            )


if __name__ == "__main__":
    main()
