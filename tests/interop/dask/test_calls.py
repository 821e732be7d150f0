"""Dask arrays give the values of NumPy arrays, for any chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import CASES, FINITE, HALF_DTYPES, build, exact, random_cases
from checks import assert_agrees, random_like
from hypothesis import given
from hypothesis import strategies as st
from reference import reference
from support.daskcases import everything, on_dask

import cudeform
from cudeform.interop.dask import deform_conv2d, deform_conv2d_backward, displacement_range

ANYWHERE = 10_000  # no sample in an image of these tests has a larger displacement

LARGE = {"size": (41, 53), "channels": 4, "groups": 2, "offset_groups": 2, "out_channels": 4}
SAME = ((1, 1), (1, 1))
WIDE = build("Dask, N(0, 2)", **LARGE, padding=SAME)
WIDE = replace(WIDE, offset=WIDE.offset * (2 / 1.5)).cast("float32")


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.promise("any array")
@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_bits_where_sums_are_exact(case: Any, chunk: int) -> None:
    case = exact(case)
    with cudeform.options(max_displacement=ANYWHERE):
        assert_same(everything(on_dask(case, chunk)), everything(case))


@given(case=random_cases(), chunk=st.integers(1, 4))
def test_the_same_bits_for_random_calls(case: Any, chunk: int) -> None:
    case = exact(case)
    with cudeform.options(max_displacement=ANYWHERE):
        assert_same(everything(on_dask(case, chunk)), everything(case))


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((2, 0), (1, 3))])
def test_windows_are_as_large_as_the_reach_says(stride: Any, dilation: Any, padding: Any) -> None:
    """Tiles inside an image, with a bound as small as the displacements allow on each side."""
    name = f"Dask, {stride} {dilation} {padding}"
    case = exact(build(name, **LARGE, stride=stride, dilation=dilation, padding=padding))
    offset = np.clip(case.offset, -3.75, 2.5)
    offset[:, 1::2] = np.clip(offset[:, 1::2], -2.0, 4.0)
    case = replace(case, offset=offset)
    with cudeform.options(max_displacement=((3.75, 2.5), (2, 4))):
        assert_same(everything(on_dask(case, 7)), everything(case))


@pytest.mark.parametrize("chunk", [7, 16, 64])
def test_other_values_differ_by_rounding(chunk: int) -> None:
    there = on_dask(WIDE, chunk)
    with cudeform.options(max_displacement=displacement_range(there.offset).compute()):
        got = everything(there)
    for name, array in everything(WIDE).items():
        scale = abs(array).max()
        np.testing.assert_allclose(got[name], array, rtol=0, atol=2e-6 * scale, err_msg=name)


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_gradients_of_16_bits_are_rounded_once(dtype: str) -> None:
    case = build("Dask, 16 bits", size=(11, 9), padding=SAME).cast(dtype)
    sums = reference(**case.backward_arguments)
    with cudeform.options(max_displacement=ANYWHERE):
        grads = deform_conv2d_backward(**on_dask(case, 3).backward_arguments)
    (grads,) = dask.compute(grads._asdict(), scheduler="sync")
    for name, grad in grads.items():
        assert_agrees(grad, sums[name], name)


def test_forward_mode_and_second_order() -> None:
    case = exact(build("Dask, second order", **LARGE, padding=SAME))
    there = on_dask(case, 9)
    directions = {n: np.round(a) for n, a in random_like(case.operands).items()}
    there_too = {
        name: da.from_array(a, chunks=6) if a.ndim > 1 else a for name, a in directions.items()
    }
    with cudeform.options(max_displacement=ANYWHERE):
        results = []
        for each, tangents in ((case, directions), (there, there_too)):
            given_tangents = cudeform.Tangents(**tangents)
            jvp = cudeform.deform_conv2d_jvp(given_tangents, **each.arguments)
            second = cudeform.deform_conv2d_double_backward(
                given_tangents, **each.backward_arguments
            )
            results.append({"jvp": jvp, **second._asdict()})
    wanted, got = dask.compute(*results, scheduler="sync")
    for name, array in wanted.items():
        # Products of four factors are rounded, so these are equal up to the order of sums.
        scale = abs(array).max()
        np.testing.assert_allclose(got[name], array, rtol=0, atol=4e-6 * scale, err_msg=name)


@pytest.mark.parametrize("lazy", ["input", "offset", "weight", "mask"])
def test_numpy_arrays_beside_one_dask_array(lazy: str) -> None:
    case = exact(build("Dask, mixed", **LARGE, padding=SAME))
    array = getattr(case, lazy)
    there = replace(case, **{lazy: da.from_array(array, chunks=(1, 1, *(20,) * (array.ndim - 2)))})
    output = deform_conv2d(**there.arguments, max_displacement=ANYWHERE)
    assert isinstance(output, da.Array)
    np.testing.assert_array_equal(output, cudeform.deform_conv2d(**case.arguments))


def test_chunks_of_results_are_those_of_their_arguments() -> None:
    there = on_dask(WIDE, 8)
    output = deform_conv2d(**there.arguments, max_displacement=20)
    grads = deform_conv2d_backward(**there.backward_arguments, max_displacement=20)
    batch, _, *space = there.offset.chunks
    assert output.chunks == (batch, (4,), *space)
    assert grads.input.chunks == there.input.chunks
    assert grads.offset.chunks[2:] == grads.mask.chunks[2:] == tuple(space)
    assert grads.weight.numblocks == (1, 1, 1, 1)


def test_one_chunk_in_space_needs_no_bound() -> None:
    there = on_dask(WIDE, 1000)
    np.testing.assert_allclose(
        cudeform.deform_conv2d(**there.arguments).compute(scheduler="sync"),
        cudeform.deform_conv2d(**WIDE.arguments),
        atol=1e-4,
    )


@pytest.mark.parametrize("kind", [kind for kind in FINITE if kind != "zero"])
def test_displacement_range(kind: str) -> None:
    case = build(f"Dask, range {kind}", offset=kind)
    (up, down), (left, right) = displacement_range(on_dask(case).offset).compute()
    dy, dx = case.offset[:, 0::2], case.offset[:, 1::2]
    assert (up, down) == (max(0, -dy.min()), max(0, dy.max()))
    assert (left, right) == (max(0, -dx.min()), max(0, dx.max()))


def test_displacement_range_leaves_out_what_is_not_finite() -> None:
    offset = da.from_array(np.array([np.nan, np.inf, -np.inf, 1.0, -2.0, 3.0]).reshape(1, 6, 1, 1))
    assert displacement_range(offset).compute().tolist() == [[2.0, 0.0], [0.0, 3.0]]
