"""Samples at the boundary of the image, with both conventions for the gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import build, named
from support.gpu_cases import assert_all_agree, expected
from support.gpu_engine import NewDevice, everything, through_columns

from cudeform.options import BOUNDARY_GRADS, Options


@pytest.mark.parametrize("kind", ["zero", "whole", "half", "far", "nan and inf"])
@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_boundary_grad(new_device: NewDevice, boundary_grad: Any, kind: str) -> None:
    options = Options(boundary_grad=boundary_grad)
    for name in (f"offset {kind}", f"torchvision, offset {kind}"):
        case = named(name).cast("float32")
        for columns in (False, True):
            with through_columns(columns):
                results = everything(new_device(), case, options)
            assert_all_agree(results, case, boundary_grad)


@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_a_nan_mask_at_the_boundary(new_device: NewDevice, boundary_grad: Any) -> None:
    case = build("nan mask", offset="whole", padding=((1, 1), (1, 1)), batch=1).cast("float32")
    case.mask[:, ::2] = np.nan
    options = Options(boundary_grad=boundary_grad)
    for columns in (False, True):
        with through_columns(columns):
            assert_all_agree(everything(new_device(), case, options), case, boundary_grad)


@pytest.mark.each_value
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_sample_one_pixel_outside_does_not_touch_the_image(
    new_device: NewDevice, axis: int, deterministic: bool, columns: bool
) -> None:
    """Its corners are out of bounds, and zero times infinity would be NaN."""
    case = build("edge", kernel=(1, 1), groups=4, out_channels=4).cast("float32")
    positions = np.indices(case.offset.shape[2:])[axis]
    offset = np.zeros_like(case.offset)
    offset[:, axis] = -1 - positions
    case = replace(case, input=np.full_like(case.input, np.inf), offset=offset)
    options = Options(deterministic=deterministic, boundary_grad="zero")
    with through_columns(columns):
        results = everything(new_device(), case, options)
    assert (results["output"] == case.bias[:, None, None]).all()
    assert_all_agree(results, case, "zero")


def test_boundary_grads_differ() -> None:
    case = named("offset whole").cast("float32")
    one, other = (expected(case, rule)["offset"].value for rule in BOUNDARY_GRADS)
    assert (one != other).any()


@pytest.mark.parametrize("columns", [False, True])
def test_an_infinite_gradient_does_not_reach_samples_outside(
    new_device: NewDevice, columns: bool
) -> None:
    """Corners out of bounds have value 0, and zero times infinity would be NaN."""
    case = build("outside", groups=4, out_channels=4, batch=1).cast("float32")
    case = replace(
        case,
        offset=np.full_like(case.offset, 1000),
        grad_output=np.full_like(case.grad_output, np.inf),
    )
    with through_columns(columns):
        results = everything(new_device(), case)
    for name in ("input", "offset", "mask"):
        assert (results[name] == 0).all(), name
