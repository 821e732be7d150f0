"""The CPU engine of operators that sum samples: gradients."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from support import sums_reference as reference
from support.cpu_sums import SumCase, attention, backward, dcnv3, forward, packed, packed_views

from cudeform import cpu
from cudeform.arrays import Gradients
from cudeform.options import Options
from cudeform.sums_geometry import ScaledGrid

TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "float16": 6e-3, "bfloat16": 5e-2}
ZERO = Options(boundary_grad="zero")

CASES = {
    "attention": attention(),
    "many taps": attention(((9, 4), (2, 3)), (70, 13), queries=3, groups=2),
    "dcnv3": dcnv3(),
}


def agrees(
    case: SumCase,
    grads: tuple[Any, ...],
    grad_output: Any,
    dtype: str = "float64",
    *,
    zero: bool = False,
) -> None:
    expected = reference.backward(case.g, *case.arrays, grad_output, zero)
    for grad, want in zip(grads, expected, strict=True):
        if grad is not None:
            error = np.abs(grad.astype(np.float64) - want)
            assert (error <= TOLERANCES[dtype] * (1 + np.abs(want).max())).all(), error.max()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients(name: str, dtype: str) -> None:
    case = CASES[name].cast(dtype)
    grad_output = case.like_output()
    agrees(case, backward(case, grad_output), grad_output, dtype)


@pytest.mark.parametrize("channels", [1, 3, 16, 24, 32, 39])
def test_any_number_of_channels(channels: int) -> None:
    case = attention(queries=3, channels=channels, dtype="float32")
    grad_output = case.like_output()
    agrees(case, backward(case, grad_output), grad_output, "float32")


@pytest.mark.parametrize("sample_dtype", ["same", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str, sample_dtype: str) -> None:
    case = attention().cast(dtype, dtype if sample_dtype == "same" else sample_dtype)
    grad_output = case.like_output()
    grads = backward(case, grad_output)
    agrees(case, grads, grad_output, dtype)


@pytest.mark.parametrize("needs", list(product((True, False), repeat=3)))
def test_only_what_is_needed(needs: tuple[bool, bool, bool]) -> None:
    case = dcnv3(dtype="float32")
    grad_output = case.like_output()
    everything = backward(case, grad_output)
    for grad, whole in zip(backward(case, grad_output, needs=needs), everything, strict=True):
        if grad is not None:
            np.testing.assert_array_equal(grad, whole)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_of_offset_and_mask_in_one_array(dtype: str) -> None:
    case = packed(dcnv3().cast(dtype))
    g, grad_output = case.g, case.like_output()
    rows = np.full((g.batch, *g.out, g.groups * 3 * g.taps + 3), 7, dtype)
    by_offset, by_mask = packed_views(rows, g)
    into = Gradients(None, by_offset, mask=by_mask)
    cpu.sums_backward(case.operands, g, Options(), grad_output, into)
    agrees(case, (None, by_offset, by_mask), grad_output, dtype)
    assert (rows[..., -3:] == 7).all()


def test_strided_arrays() -> None:
    case = dcnv3(dtype="float32")
    grad_output = case.like_output()
    expected = backward(case, grad_output)
    strided = replace(
        case,
        input=case.input[:, ::-1].copy()[:, ::-1],
        offset=np.repeat(case.offset, 2, axis=2)[:, :, ::2],
        mask=np.asfortranarray(case.mask),
    )
    apart = np.repeat(grad_output, 2, axis=4)[..., ::2]
    for grad, whole in zip(backward(strided, apart), expected, strict=True):
        np.testing.assert_array_equal(grad, whole)


def test_a_gradient_with_strides_of_its_own() -> None:
    case = dcnv3(dtype="float32")
    grad_output = case.like_output()
    wide = np.full((*case.input.shape[:3], 3, case.g.channels), 7, np.float32)
    into = Gradients(wide[..., :2, :])
    cpu.sums_backward(case.operands, case.g, Options(), grad_output, into)
    np.testing.assert_array_equal(wide[..., :2, :], backward(case, grad_output)[0])
    assert (wide[..., 2, :] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("groups", "channels"), [(1, 37), (3, 37), (3, 16)])
def test_the_same_bits_for_any_number_of_threads(groups: int, channels: int, dtype: str) -> None:
    sizes = {"queries": 101, "groups": groups, "channels": channels, "batch": 1}
    case = attention(taps=(70, 2, 1, 1), dtype=dtype, **sizes)
    grad_output = case.like_output()
    one = backward(case, grad_output, Options(num_threads=1))
    for threads in (2, 3, 8):
        several = backward(case, grad_output, Options(num_threads=threads))
        for a, b in zip(one, several, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_small_workspace(dtype: str) -> None:
    case = dcnv3(batch=3).cast(dtype)
    grad_output = case.like_output()
    need = 2 * (3 * case.g.taps + case.g.channels) * case.g.groups * 4
    some = backward(case, grad_output, Options(workspace_limit=need))
    for grad, whole in zip(some, backward(case, grad_output), strict=True):
        np.testing.assert_array_equal(grad, whole)


def test_empty() -> None:
    case = attention(queries=0)
    by_input, by_offset, by_mask = backward(case, case.like_output())
    assert not by_input.any()
    assert by_offset.size == by_mask.size == 0


@pytest.mark.parametrize("zero", [False, True])
def test_a_coordinate_of_minus_one(zero: bool) -> None:
    case = attention(((4, 4),), (8,), batch=1, queries=1, groups=1, channels=2)
    pixels = [(-1, 0), (0, -1), (-1, -1), (3, 3), (0, 0), (-1, 1.5), (4, 0), (1.5, -1)]
    case.offset[0, 0, 0, 0] = (np.array(pixels) + 0.5) / 4
    grad_output = case.like_output()
    grads = backward(case, grad_output, ZERO if zero else Options())
    agrees(case, grads, grad_output, zero=zero)
    assert grads[1][0, 0, 0, 0, 0].any() != zero


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite(bad: float) -> None:
    case = attention()
    case.offset[1, 2, 0, 1, 3, 0] = bad
    grad_output = case.like_output()
    by_input, by_offset, by_mask = backward(case, grad_output)
    lost = np.isnan(bad)
    assert np.isnan(by_offset[1, 2, 0, 1, 3]).all() == lost
    assert np.isnan(by_mask[1, 2, 0, 1, 3]) == lost
    assert np.isnan(by_offset).sum() == 2 * lost
    assert np.isfinite(by_input).all()
    expected = reference.backward(case.g, *case.arrays, grad_output, False)
    np.testing.assert_allclose(by_input, expected[0], 1e-12, 1e-12)


@pytest.mark.parametrize("scale", [0.7, 3.0, 1.0])
def test_the_slope_at_a_small_negative_offset(scale: float) -> None:
    grid = ScaledGrid((3, 3), (1, 1), (1, 1), (1, 1), scale, remove_center=False)
    case = dcnv3(grid, size=(9, 9), out=(9, 9), channels=3, dtype="float32")
    case.offset[...] = -1e-9
    grad_output = case.like_output()
    _, by_offset, _ = backward(case, grad_output)
    _, expected, _ = reference.backward(case.g, *case.arrays, grad_output, False)
    # Taps around the centre are at a multiple of the scale, which float32 rounds.
    taps = slice(None) if scale == 1 else slice(4, 5)
    np.testing.assert_allclose(by_offset[:, :, :, :, taps], expected[:, :, :, :, taps], 0, 2e-5)


@pytest.mark.parametrize(("mask", "grad"), [(np.inf, 1), (1, np.inf)])
def test_infinities_reach_no_corner_of_weight_zero(mask: float, grad: float) -> None:
    case = attention(((2, 2),), (1,), batch=1, queries=1, groups=1, channels=1)
    case.offset[...], case.mask[...] = 0.25, mask
    by_input, *_ = backward(case, np.full(case.output_shape, float(grad)))
    np.testing.assert_array_equal(by_input.reshape(-1), [np.inf, 0, 0, 0])


def test_the_gradient_of_the_input_is_the_adjoint() -> None:
    case = dcnv3(groups=3, channels=20)
    grad_output = case.like_output()
    by_input, _, by_mask = backward(case, grad_output)
    product = (forward(case) * grad_output).sum()
    np.testing.assert_allclose((by_input * case.input).sum(), product, 1e-12)
    np.testing.assert_allclose((by_mask * case.mask).sum(), product, 1e-12)
