"""The CPU engine of operators that sum samples: gradients."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress, product
from typing import Any

import numpy as np
import pytest
from support.canonical_sums import (
    OPERANDS,
    PLAIN_GRID,
    Arrays,
    CanonicalSum,
    attention,
    dcnv3,
    expected,
    packed,
    packed_views,
)
from support.cpu_sums import backward, forward

from cudeform import cpu
from cudeform.arrays import Gradients
from cudeform.options import Options

TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "float16": 6e-3, "bfloat16": 5e-2}

CASES = {
    "attention": attention(),
    "many taps": attention([(9, 4, 70), (2, 3, 13)], queries=3, groups=2),
    "dcnv3": dcnv3(),
}


def agrees(
    case: CanonicalSum, grads: Arrays, dtype: str = "float64", *, rule: str = "one_sided"
) -> None:
    wanted = expected(case, rule)
    for name, grad in grads.items():
        error = np.abs(grad.astype(np.float64) - wanted[name])
        assert (error <= TOLERANCES[dtype] * (1 + np.abs(wanted[name]).max())).all(), error.max()


def assert_same(some: Arrays, others: Arrays) -> None:
    """Check the bits of gradients that both hold."""
    for name in some.keys() & others.keys():
        np.testing.assert_array_equal(some[name], others[name], name)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients(name: str, dtype: str) -> None:
    case = CASES[name].cast(dtype)
    agrees(case, backward(case), dtype)


@pytest.mark.parametrize("channels", [1, 3, 16, 24, 32, 39])
def test_any_number_of_channels(channels: int) -> None:
    case = attention(queries=3, channels=channels, dtype="float32")
    agrees(case, backward(case), "float32")


@pytest.mark.parametrize("sample_dtype", ["same", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str, sample_dtype: str) -> None:
    case = attention().cast(dtype, dtype if sample_dtype == "same" else sample_dtype)
    agrees(case, backward(case), dtype)


@pytest.mark.parametrize("present", list(product((True, False), repeat=3)))
def test_only_what_is_wanted(present: tuple[bool, bool, bool]) -> None:
    case = dcnv3(dtype="float32")
    wanted = list(compress(OPERANDS, present))
    assert_same(backward(case, wanted=wanted), backward(case))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_of_offset_and_mask_in_one_array(dtype: str) -> None:
    case = packed(dcnv3().cast(dtype))
    g = case.g
    rows = np.full((g.batch, *g.out, g.groups * 3 * g.taps + 3), 7, dtype)
    by_offset, by_mask = packed_views(rows, g)
    into = Gradients(None, by_offset, mask=by_mask)
    cpu.sums_backward(case.operands, g, Options(), case.grad_output, into)
    agrees(case, {"offset": by_offset, "mask": by_mask}, dtype)
    assert (rows[..., -3:] == 7).all()


def test_strided_arrays() -> None:
    case = dcnv3(dtype="float32")
    strided = replace(
        case,
        input=case.input[:, ::-1].copy()[:, ::-1],
        offset=np.repeat(case.offset, 2, axis=2)[:, :, ::2],
        mask=np.asfortranarray(case.mask),
        grad_output=np.repeat(case.grad_output, 2, axis=4)[..., ::2],
    )
    assert_same(backward(strided), backward(case))


def test_a_gradient_with_strides_of_its_own() -> None:
    case = dcnv3(dtype="float32")
    wide = np.full((*case.input.shape[:3], 3, case.g.channels), 7, np.float32)
    into = Gradients(wide[..., :2, :])
    cpu.sums_backward(case.operands, case.g, Options(), case.grad_output, into)
    np.testing.assert_array_equal(wide[..., :2, :], backward(case)["input"])
    assert (wide[..., 2, :] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("groups", "channels"), [(1, 37), (3, 37), (3, 16)])
def test_the_same_bits_for_any_number_of_threads(groups: int, channels: int, dtype: str) -> None:
    levels = [(5, 7, 70), (3, 2, 2), (1, 4, 1), (1, 1, 1)]
    sizes = {"queries": 101, "groups": groups, "channels": channels, "batch": 1}
    case = attention(levels, dtype=dtype, **sizes)
    one = backward(case, Options(num_threads=1))
    for threads in (2, 3, 8):
        assert_same(backward(case, Options(num_threads=threads)), one)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_small_workspace(dtype: str) -> None:
    case = dcnv3(batch=3).cast(dtype)
    need = 2 * (3 * case.g.taps + case.g.channels) * case.g.groups * 4
    assert_same(backward(case, Options(workspace_limit=need)), backward(case))


def test_empty() -> None:
    case = attention(queries=0)
    by_input, by_offset, by_mask = backward(case).values()
    assert not by_input.any()
    assert by_offset.size == by_mask.size == 0


@pytest.mark.parametrize("rule", ["one_sided", "zero"])
def test_a_coordinate_of_minus_one(rule: Any) -> None:
    case = attention([(4, 4, 8)], batch=1, queries=1, groups=1, channels=2)
    pixels = [(-1, 0), (0, -1), (-1, -1), (3, 3), (0, 0), (-1, 1.5), (4, 0), (1.5, -1)]
    case.offset[0, 0, 0, 0] = (np.array(pixels) + 0.5) / 4
    grads = backward(case, Options(boundary_grad=rule))
    agrees(case, grads, rule=rule)
    assert grads["offset"][0, 0, 0, 0, 0].any() == (rule == "one_sided")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite(bad: float) -> None:
    case = attention()
    case.offset[1, 2, 0, 1, 3, 0] = bad
    by_input, by_offset, by_mask = backward(case).values()
    nan_coord = np.isnan(bad)
    assert np.isnan(by_offset[1, 2, 0, 1, 3]).all() == nan_coord
    assert np.isnan(by_mask[1, 2, 0, 1, 3]) == nan_coord
    assert np.isnan(by_offset).sum() == 2 * nan_coord
    assert np.isfinite(by_input).all()
    np.testing.assert_allclose(by_input, expected(case)["input"], 1e-12, 1e-12)


@pytest.mark.parametrize("scale", [0.7, 3.0, 1.0])
def test_the_slope_at_a_small_negative_offset(scale: float) -> None:
    case = dcnv3(
        replace(PLAIN_GRID, scale=scale), size=(9, 9), out=(9, 9), channels=3, dtype="float32"
    )
    case.offset[...] = -1e-9
    by_offset, wanted = backward(case)["offset"], expected(case)["offset"]
    # Taps around the centre are at a multiple of the scale, which float32 rounds.
    taps = slice(None) if scale == 1 else slice(4, 5)
    np.testing.assert_allclose(by_offset[:, :, :, :, taps], wanted[:, :, :, :, taps], 0, 2e-5)


@pytest.mark.parametrize(("mask", "grad"), [(np.inf, 1), (1, np.inf)])
def test_infinities_reach_no_corner_of_weight_zero(mask: float, grad: float) -> None:
    case = attention([(2, 2, 1)], batch=1, queries=1, groups=1, channels=1)
    case.offset[...], case.mask[...] = 0.25, mask
    case.grad_output[...] = grad
    by_input = backward(case)["input"]
    np.testing.assert_array_equal(by_input.reshape(-1), [np.inf, 0, 0, 0])


def test_the_gradient_of_the_input_is_the_adjoint() -> None:
    case = dcnv3(groups=3, channels=20)
    by_input, _, by_mask = backward(case).values()
    product = (forward(case) * case.grad_output).sum()
    np.testing.assert_allclose((by_input * case.input).sum(), product, 1e-12)
    np.testing.assert_allclose((by_mask * case.mask).sum(), product, 1e-12)
