"""Forward mode and gradients of gradients by the GPU engine: values, image edges, order of sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import build
from checks import random_like
from support.gpu_engine import on_host

import cudeform
from cudeform.arrays import Tangents
from cudeform.options import Options


@pytest.mark.promise("differentiable twice")
@pytest.mark.each_value
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rule", ["one_sided", "zero"])
@pytest.mark.parametrize(("offset", "groups"), [("large", 2), ("half", 2), ("half", 4)])
def test_the_gpu_engine_agrees(
    offset: str, groups: int, rule: Any, dtype: str, deterministic: bool
) -> None:
    # With 4 groups, an offset group has channels of two of them.
    case = build("both", channels=8, groups=groups, offset_groups=2, out_channels=8, offset=offset)
    case = case.cast(dtype)
    tangents = random_like(case.operands)
    options = Options(boundary_grad=rule, deterministic=deterministic)
    with cudeform.options(boundary_grad=rule):
        tangent = cudeform.deform_conv2d_jvp(Tangents(**tangents), **case.arguments)
        results = cudeform.deform_conv2d_double_backward(
            Tangents(**tangents), **case.backward_arguments
        )
    got_tangent, got = on_host(case, tangents, options, multiprocessors=1)
    error = 1e-12 if dtype == "float64" else 2e-6
    for mine, theirs in [(got_tangent, tangent), *((got[n], getattr(results, n)) for n in got)]:
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=error * abs(theirs).max())


def test_an_infinite_mask_does_not_reach_samples_outside() -> None:
    """Corners out of bounds have value 0, and zero times infinity would be NaN."""
    case = build("outside", channels=8, out_channels=4).cast("float32")
    case.offset[...] = 1000
    case.mask[...] = np.inf
    operands = {name: array for name, array in case.operands.items() if name != "weight"}
    tangents = random_like(operands)
    tangent, grads = on_host(case, tangents, Options())
    assert (tangent == tangents["bias"][:, None, None]).all()
    assert (grads["grad_output"] == tangent).all()
    assert (grads["input"] == 0).all()


def test_the_tangent_of_a_nan_coordinate_is_nan() -> None:
    case = build("nan", channels=8, out_channels=4).cast("float32")
    case.offset[:, 0, 1, 2] = np.nan
    tangents = random_like(case.operands)
    del tangents["weight"]
    tangent, grads = on_host(case, tangents, Options())
    is_nan = np.zeros(tangent.shape, bool)
    is_nan[:, :, 1, 2] = True
    assert (np.isnan(tangent) == is_nan).all()
    assert (np.isnan(grads["grad_output"]) == is_nan).all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_plan_changes_no_bit(deterministic: bool) -> None:
    case = build("plan", channels=8, groups=2, offset_groups=2, out_channels=6).cast("float32")
    tangents = random_like(case.operands)
    options = Options(deterministic=deterministic)
    some, others = (on_host(case, tangents, options, planned) for planned in (False, True))
    assert some[0].tobytes() == others[0].tobytes()
    assert {n: a.tobytes() for n, a in some[1].items()} == {
        n: a.tobytes() for n, a in others[1].items()
    }


def test_deterministic_results_do_not_depend_on_the_order_of_blocks() -> None:
    case = build("order", channels=8, out_channels=4, size=(9, 8), offset="large").cast("float32")
    tangents = random_like(case.operands)
    runs = [
        on_host(case, tangents, Options(deterministic=True), seed=seed)[1]["input"].tobytes()
        for seed in range(3)
    ]
    assert runs[0] == runs[1] == runs[2]
