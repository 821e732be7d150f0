"""Check the GPU of this machine against the CPU engine.

Every operation and algorithm is called with CuPy arrays on the GPU and with the same NumPy arrays
on the CPU, in float16, float32 and float64. The calls use every kernel. A table shows the largest
differences.

Exit status 0 if all results agree, 1 if one is wrong or a call fails, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import cudeform
from cudeform import derivatives
from cudeform.arrays import Tangents
from cudeform.commands import check_sums, gpus, info
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

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """An operation to compare on both engines.

    Attributes:
        call: function that computes the results from arrays.
        forced: algorithms to force on the GPU engine; the CPU engine has no such choice.
        options: options of cudeform for the call.
        problems: makes the arrays of each call in a dtype.
    """

    call: Callable[[Arrays], list[Any]]
    forced: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    problems: Callable[[str], Iterator[Arrays]] = lambda dtype: _problems(dtype)

    def __call__(self, arrays: Arrays) -> list[Any]:
        """Compute the results for arrays on the GPU or on the CPU."""
        with overrides.force(**self.forced), cudeform.options(**self.options):
            return self.call(arrays)


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
    print(f"\n{'':34}" + "".join(f"{dtype:>12}" for dtype in ALLOWED), flush=True)
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
    print(f"{name:34}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    return faults


def _largest_error(cupy: Any, operation: Operation, dtype: str) -> float:
    """The largest relative error of an operation over all problems; NaN if any error is NaN."""
    errors = [0.0]
    for arrays in operation.problems(dtype):
        on_gpu = {name: cupy.asarray(array) for name, array in arrays.items()}
        for result, expected in zip(operation(on_gpu), operation(arrays), strict=True):
            wanted = np.asarray(expected, np.float64)
            difference = np.abs(cupy.asnumpy(result).astype(np.float64) - wanted)
            errors.append(float(difference.max() / max(np.abs(wanted).max(), 1e-300)))
    return float(np.max(errors))


# Batch, channels, output channels, groups and offset groups. The calls use every kernel: channels
# with and without 16-byte vectors, groups for the direct kernels, and one product so deep that the
# fused kernel splits it.
SHAPES = (
    (3, 16, 32, 1, 1),
    (3, 32, 64, 2, 2),
    (3, 6, 12, 3, 2),
    (3, 8, 16, 8, 1),
    (1, 128, 32, 1, 1),
)


def _problems(dtype: str) -> Iterator[Arrays]:
    rng = np.random.default_rng(0)
    for batch, channels, out_channels, groups, offset_groups in SHAPES:
        shapes = {
            "grad_output": (batch, out_channels, 13, 11),
            "input": (batch, channels, 13, 11),
            "offset": (batch, 18 * offset_groups, 13, 11),
            "weight": (out_channels, channels // groups, 3, 3),
            "bias": (out_channels,),
            "mask": (batch, 9 * offset_groups, 13, 11),
        }
        arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        # Exact in half precision and never an integer: both engines sample the same corners.
        arrays["offset"] = np.round(arrays["offset"] * 8) / 8 + 1 / 16
        yield {name: array.astype(dtype) for name, array in arrays.items()}


def _transposed_problems(dtype: str) -> Iterator[Arrays]:
    """The same from the size of the output to that of the input."""
    for arrays in _problems(dtype):
        image = arrays["input"]
        bias = image[0, :, 0, 0].copy()
        yield arrays | {"input": arrays["grad_output"], "grad_output": image, "bias": bias}


def _forward(arrays: Arrays) -> list[Any]:
    return [cudeform.deform_conv2d(**_without_grad_output(arrays), padding=1)]


def _channels_last(arrays: Arrays) -> list[Any]:
    image = arrays["input"].transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    return _forward(arrays | {"input": image})


def _backward(arrays: Arrays) -> list[Any]:
    return list(cudeform.deform_conv2d_backward(**arrays, padding=1))


def _jvp(arrays: Arrays) -> list[Any]:
    arrays = _without_grad_output(arrays)
    return [cudeform.deform_conv2d_jvp(Tangents(**arrays), **arrays, padding=1)]


def _double_backward(arrays: Arrays) -> list[Any]:
    cotangents = Tangents(**_without_grad_output(arrays))
    return list(cudeform.deform_conv2d_double_backward(cotangents, **arrays, padding=1))


def _transposed(arrays: Arrays) -> list[Any]:
    arguments, groups = _without_grad_output(arrays), _groups(arrays)
    output = cudeform.deform_conv_transpose2d(**arguments, padding=1, groups=groups)
    return [
        output,
        *cudeform.deform_conv_transpose2d_backward(**arrays, padding=1, groups=groups),
    ]


def _transposed_second_order(arrays: Arrays) -> list[Any]:
    arguments, groups = _without_grad_output(arrays), _groups(arrays)
    along = Tangents(**arguments)
    jvp = derivatives.deform_conv_transpose2d_jvp
    double_backward = derivatives.deform_conv_transpose2d_double_backward
    return [
        jvp(along, **arguments, padding=1, groups=groups),
        *double_backward(along, **arrays, padding=1, groups=groups),
    ]


def _groups(arrays: Arrays) -> int:
    """Groups of a transposed convolution."""
    return int(arrays["bias"].shape[0] // arrays["weight"].shape[1])


def _without_grad_output(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name != "grad_output"}


OPERATIONS: dict[str, Operation] = {
    "forward": Operation(_forward),
    "forward, channels last": Operation(_channels_last),
    "forward, im2col": Operation(_forward, forced={"algorithm": "im2col"}),
    "forward, fused": Operation(_forward, forced={"algorithm": "fused"}),
    "backward": Operation(_backward),
    "backward, im2col": Operation(_backward, forced={"algorithm": "im2col"}),
    "backward, scalar additions": Operation(_backward, forced={"scatter": "scalar"}),
    "backward, deterministic": Operation(_backward, options={"deterministic": True}),
    "forward mode": Operation(_jvp),
    "double backward": Operation(_double_backward),
    "transposed": Operation(_transposed, problems=_transposed_problems),
    "transposed, deterministic": Operation(
        _transposed, options={"deterministic": True}, problems=_transposed_problems
    ),
    "transposed, second order": Operation(_transposed_second_order, problems=_transposed_problems),
    "DCNv3": Operation(check_sums.dcnv3, problems=check_sums.dcnv3_problems),
    "DCNv3, deterministic": Operation(
        check_sums.dcnv3, options={"deterministic": True}, problems=check_sums.dcnv3_problems
    ),
    "DCNv3, second order": Operation(
        check_sums.dcnv3_second_order, problems=check_sums.dcnv3_problems
    ),
    "attention": Operation(check_sums.attention, problems=check_sums.attention_problems),
    "attention, second order": Operation(
        check_sums.attention_second_order, problems=check_sums.attention_problems
    ),
}
