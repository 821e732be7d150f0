"""Comparison of results with the reference, and measurement of memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import Case
from reference import Sum, reference
from support.needs import COMPILER

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


def computed(
    grad_output: Any = None, *, boundary_grad: str = "one_sided", **arguments: Any
) -> dict[str, Any]:
    """What cudeform makes of a call: ``output``, and with ``grad_output`` the gradients."""
    with cudeform.options(boundary_grad=boundary_grad):
        results = {"output": cudeform.deform_conv2d(**arguments)}
        if grad_output is not None:
            results |= cudeform.deform_conv2d_backward(grad_output, **arguments)._asdict()
    return {name: array for name, array in results.items() if array is not None}


def defined(**arguments: Any) -> dict[str, Any]:
    """What the definition makes of the same call."""
    return {name: total.value for name, total in reference(**arguments).items()}


# For tests of values that were worked out by hand: the reference must give them too.
both = pytest.mark.parametrize("compute", [computed, defined], ids=["cudeform", "reference"])


# For tests of the CUDA device on the CPU.
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def random_like(arrays: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Random arrays of these shapes and dtypes."""
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in arrays.items()}


def assert_agrees(actual: Any, sums: Sum, what: str, *, roundings: int = 1) -> None:
    """Fail if a result differs from the reference by more than rounding explains.

    Args:
        actual: the result.
        sums: the reference's.
        what: names it.
        roundings: to the storage dtype, on the way from the operands to the result: 1 of the result
            itself; 2 if a factor of each term was rounded before, which moves the sum by no more
            than that share of its scale.
    """
    dtype = actual.dtype.name
    of_scale, of_value = TOLERANCES[dtype]
    of_scale += (roundings - 1) * of_value * (1 + of_value)
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


def assert_case_agrees(case: Case, boundary_grad: str = "one_sided") -> None:
    """Compare the output and every gradient of a case with the reference's."""
    call = {**case.backward_arguments, "boundary_grad": boundary_grad}
    results, sums = computed(**call), reference(**call)
    assert results.keys() == sums.keys()
    for name, array in results.items():
        assert_agrees(array, sums[name], f"{case.name}: {name}")


@cache
def least_limit(case: Case) -> int:
    """The smallest limit that the backward accepts, which is above the forward's."""
    low, high = 1, 2**30  # refused, accepted
    while high - low > 1:
        middle = (low + high) // 2
        try:
            with cudeform.options(workspace_limit=middle):
                cudeform.deform_conv2d_backward(**case.backward_arguments, needs=())
            high = middle
        except ValueError:
            low = middle
    return high


class Peak:
    """Bytes that were allocated on top of what there was before."""

    nbytes = 0


@contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure the peak memory of the block."""
    peak = Peak()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield peak
        peak.nbytes = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
