"""How a result is judged, and how memory is measured."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from cases import Case
from reference import Sum, reference

import cudeform

# Error allowed: a share of the scale of the sum, and of the result itself. An engine computes
# float16 and bfloat16 in float32 and rounds once, by at most half a unit in the last place.
TOLERANCES = {
    "float64": (1e-12, 0.0),
    "float32": (2e-6, 0.0),
    "float16": (2e-6, 2.0**-11),
    "bfloat16": (2e-6, 2.0**-8),
}
TINY = {"float16": 2.0**-25}  # half of the smallest subnormal number


@cache
def expected(case: Case, boundary_grad: str = "torchvision") -> dict[str, Sum]:
    """The reference's output and gradients of a case."""
    return reference(**case.backward_arguments, boundary_grad=boundary_grad)


def assert_agrees(actual: Any, sums: Sum, what: str) -> None:
    """Refuse a result that is farther from the reference than rounding can carry it."""
    dtype = actual.dtype.name
    of_scale, of_value = TOLERANCES[dtype]
    wanted, got = sums.value, actual.astype(np.float64)
    assert got.shape == wanted.shape, what
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(got[~finite], wanted[~finite], err_msg=what)
    allowed = of_scale * sums.scale + of_value * abs(wanted) + TINY.get(dtype, 0.0)
    error = np.where(finite, abs(got - np.where(finite, wanted, 0.0)), 0.0)
    wrong = ~(error <= np.where(finite, allowed, 0.0))
    if wrong.any():
        at = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}, {dtype}: {wrong.sum()} of {wrong.size} wrong, first at {at}: "
            f"{got[at]!r} instead of {wanted[at]!r}, allowed error {allowed[at]:.3g}"
        )


def assert_forward_agrees(case: Case) -> None:
    """Compare the output of a case with the reference's."""
    output = cudeform.deform_conv2d(**case.arguments)
    assert_agrees(output, reference(**case.arguments)["output"], f"{case.name}: output")


def assert_case_agrees(case: Case) -> None:
    """Compare the output and every gradient of a case with the reference's."""
    sums = expected(case)
    assert_agrees(cudeform.deform_conv2d(**case.arguments), sums["output"], f"{case.name}: output")
    assert_gradients_agree(case)


def assert_gradients_agree(case: Case, boundary_grad: Any = "torchvision") -> None:
    """Compare every gradient of a case with the reference's."""
    sums = expected(case, boundary_grad)
    with cudeform.options(boundary_grad=boundary_grad):
        grads = cudeform.deform_conv2d_backward(**case.backward_arguments)
    for name, grad in grads._asdict().items():
        if getattr(case, name) is None:
            assert grad is None, f"{case.name}: there is no {name}"
        else:
            assert_agrees(grad, sums[name], f"{case.name}: gradient of {name}")


class Peak:
    """Bytes that were allocated on top of what there was before."""

    nbytes = 0


@contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure the most memory that the block holds at a time."""
    peak = Peak()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield peak
        peak.nbytes = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
