"""Sums by the GPU engine at the edges of levels, of numbers and of sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.canonical_sums import (
    OPERANDS,
    PLAIN_GRID,
    assert_close,
    attention,
    dcnv3,
    directions,
    expected,
)
from support.gpu_sums import OnGpu

from cudeform.options import Options


@pytest.mark.parametrize("rule", ["one_sided", "zero"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_coordinate_of_minus_one(rule: Any, deterministic: bool, new_device: Any) -> None:
    case = dcnv3(PLAIN_GRID, channels=8).cast("float32")
    case.offset[...] = np.round(case.offset)  # whole coordinates, -1 among them
    on = OnGpu(new_device(), case, Options(boundary_grad=rule, deterministic=deterministic))
    wanted = expected(case, rule)
    other = expected(case, "zero" if rule == "one_sided" else "one_sided")
    assert abs(wanted["offset"] - other["offset"]).max() > 0
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)


@pytest.mark.parametrize("rule", ["one_sided", "zero"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_tangents_at_minus_one_follow_the_rule_of_the_gradients(
    rule: Any, deterministic: bool, new_device: Any
) -> None:
    """Each derivative is linear in its directions, and in the input and the mask."""
    case = dcnv3(PLAIN_GRID, channels=8)
    case.offset[...] = np.round(case.offset)
    on = OnGpu(new_device(), case, Options(boundary_grad=rule, deterministic=deterministic))
    grads, along = on.grads(), directions(case)
    parts = {name: (grads[name] * along[name]).sum() for name in OPERANDS}
    assert_close((on.jvp(along) * case.grad_output).sum(), sum(parts.values()), 1e-12)
    double = on.double(along)
    for name, others in (("input", ("offset", "mask")), ("mask", ("input", "offset"))):
        wanted = sum(parts[other] for other in others)
        assert_close((double[name] * getattr(case, name)).sum(), wanted, 1e-12, name)


def test_an_infinite_gradient_does_not_meet_corners_out_of_bounds(new_device: Any) -> None:
    """Nor does an infinite mask meet corners of weight 0."""
    case = attention(((3, 4, 1),), channels=8).cast("float32")
    case.offset[...] = 0  # half a pixel outside: a single corner is in bounds
    case.input[...], case.grad_output[...] = 1, np.inf
    on = OnGpu(new_device(), case)
    assert np.isposinf(on.grads(("mask",))["mask"]).all()
    case.offset[...] = -9  # out of range
    assert all((grad == 0).all() for grad in on.grads().values())
    case.offset[...] = (0.5 / 4, 0.5 / 3)  # the first pixel
    case.mask[...] = np.inf
    assert np.isposinf(on.output()).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("location", [-9.0, np.inf, -0.5 / 4])
def test_a_mask_multiplies_samples_that_reach_no_pixel(
    location: float, bad: float, new_device: Any
) -> None:
    """As in a convolution, where zero times a mask that is not finite is NaN."""
    case = attention(((3, 4, 1), (2, 2, 2)), channels=8).cast("float32")
    case.offset[0, 1, 0, 0, 0] = location
    case.mask[0, 1, 0, 0, 0] = bad
    is_nan = np.zeros(case.grad_output.shape, bool)
    is_nan[0, 1, 0, 0] = True
    assert (np.isnan(OnGpu(new_device(), case).output()) == is_nan).all()


def test_nan_and_infinite_coordinates(new_device: Any) -> None:
    case = attention(channels=16).cast("float32")
    case.offset[0, 2, 0, 1, 3, 0] = np.nan
    case.offset[1, 3, 0, 0, 5] = np.inf
    case.offset[1, 4, 0, 2, 1, 1] = -np.inf
    wanted, on = expected(case), OnGpu(new_device(), case)
    output = on.output()
    is_nan = np.zeros(output.shape, bool)
    is_nan[0, 2, 0, 1] = True
    assert (np.isnan(output) == is_nan).all()
    assert_close(output[~is_nan], wanted["output"][~is_nan], 2e-6)
    grads = on.grads()
    assert np.isfinite(grads["input"]).all()
    assert np.isnan(grads["offset"][0, 2, 0, 1, 3]).all()
    assert np.isnan(grads["mask"]).sum() == 1
    assert (grads["offset"][1, 3, 0, 0, 5] == 0).all()
    assert np.isnan(on.jvp(directions(case))[0, 2, 0, 1]).all()


def test_an_infinite_pixel_stays_in_its_level(new_device: Any) -> None:
    """Corners out of bounds are not read: what adjoins a level in memory does not reach it."""
    case = attention(((3, 4, 4), (2, 5, 4)), channels=8).cast("float32")
    case.input[:, 12:] = np.inf
    case.mask[..., 4:] = 0
    case.offset[..., :4, :] = np.linspace(0, 1, case.offset[..., :4, :].size).reshape(
        case.offset[..., :4, :].shape
    )
    case.offset[..., 4:, :] = 9  # out of range
    assert np.isfinite(OnGpu(new_device(), case).output()).all()


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"channels": 0}, {"groups": 0}])
@pytest.mark.parametrize("deterministic", [False, True])
def test_sizes_of_zero(sizes: dict[str, int], deterministic: bool, new_device: Any) -> None:
    case = attention(**sizes).cast("float32")
    on = OnGpu(new_device(), case, Options(deterministic=deterministic))
    wanted = expected(case)
    assert (on.output() == wanted["output"]).all()
    for operand, grad in on.grads().items():
        assert (grad == wanted[operand]).all()
    assert (on.jvp(directions(case)) == 0).all()
    assert (on.double(directions(case))["input"] == 0).all()


def test_sixteen_levels_and_no_more(new_device: Any) -> None:
    levels = tuple((1 + i % 3, 2 + i % 2, 1 + i % 2) for i in range(17))
    case = attention(levels[:16], channels=8).cast("float32")
    assert_close(OnGpu(new_device(), case).output(), expected(case)["output"], 2e-6)
    with pytest.raises(ValueError, match="at most 16 levels, got 17"):
        OnGpu(new_device(), attention(levels, channels=8).cast("float32")).output()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_images_keep_their_coordinates(dtype: str, new_device: Any) -> None:
    """Float32 locations on 4096 columns, beside halves."""
    case = attention(((2, 4096, 3),), channels=8, groups=1).cast(dtype, "float32")
    assert_close(OnGpu(new_device(), case).output(), expected(case)["output"], 2e-3)
