"""The CPU engine of operators that sum samples: the output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import canonical_sums_reference as reference
from support.canonical_sums import PLAIN_GRID, CanonicalSum, attention, dcnv3, dtype_of, packed
from support.cpu_sums import forward

from cudeform.options import Options
from cudeform.sums_geometry import ScaledGrid

TOLERANCES = {"float64": 1e-12, "float32": 5e-6, "float16": 4e-3, "bfloat16": 3e-2}

CASES = {
    "attention": attention(),
    "one level": attention([(4, 6, 5)]),
    "many taps": attention([(9, 4, 70), (2, 3, 13)], queries=3, groups=2),
    "dcnv3": dcnv3(),
    "unscaled grid": dcnv3(PLAIN_GRID),
}


def agrees(case: CanonicalSum, output: Any, dtype: str = "float64") -> None:
    expected = reference.forward(case.g, *case.arrays)
    np.testing.assert_allclose(
        output.astype(np.float64), expected, TOLERANCES[dtype], TOLERANCES[dtype]
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_output(name: str, dtype: str) -> None:
    case = CASES[name].cast(dtype)
    agrees(case, forward(case), dtype)


@pytest.mark.parametrize("channels", [1, 3, 8, 16, 24, 31, 32, 64, 75])
def test_any_number_of_channels(channels: int) -> None:
    case = attention(queries=3, channels=channels, dtype="float32")
    agrees(case, forward(case), "float32")


@pytest.mark.parametrize("sample_dtype", ["same", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str, sample_dtype: str) -> None:
    case = attention().cast(dtype, dtype if sample_dtype == "same" else sample_dtype)
    output = forward(case)
    assert output.dtype == dtype_of(dtype)
    agrees(case, output, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_offset_and_mask_in_one_array(dtype: str) -> None:
    case = packed(dcnv3().cast(dtype))
    agrees(case, forward(case), dtype)


def test_strided_arrays() -> None:
    case = dcnv3(dtype="float32")
    # Every second group, reversed rows, and channels that are not adjacent in the second one.
    wide = np.zeros((*case.input.shape[:3], 2 * case.g.groups, case.g.channels), np.float32)
    wide[..., ::2, :] = case.input[:, ::-1]
    strided = replace(
        case,
        input=wide[:, ::-1, :, ::2],
        offset=np.repeat(case.offset, 2, axis=2)[:, :, ::2],
        mask=np.asfortranarray(case.mask),
    )
    np.testing.assert_array_equal(forward(strided), forward(case))
    apart = np.repeat(case.input, 2, axis=4)[..., ::2]
    np.testing.assert_array_equal(forward(replace(case, input=apart)), forward(case))


def test_output_with_strides() -> None:
    from cudeform import cpu

    case = dcnv3(dtype="float32")
    wide = np.zeros((*case.grad_output.shape[:4], 2 * case.g.channels), np.float32)
    for output in (wide[..., ::2], wide[..., : case.g.channels]):
        cpu.sums_forward(case.operands, case.g, Options(), output)
        np.testing.assert_array_equal(output, forward(case))


def test_a_broadcast_mask_and_batch() -> None:
    case = attention(dtype="float32")
    case = replace(
        case,
        input=np.broadcast_to(case.input[:1], case.input.shape),
        mask=np.broadcast_to(np.float32(0.5), case.mask.shape),
    )
    agrees(case, forward(case), "float32")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    case = attention(queries=211, dtype="float32")
    one = forward(case, Options(num_threads=1))
    np.testing.assert_array_equal(forward(case, Options(num_threads=threads)), one)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_small_workspace(dtype: str) -> None:
    case = dcnv3(batch=3).cast(dtype)
    need = (3 * case.g.taps + case.g.channels) * case.g.groups * 4
    some = forward(case, Options(workspace_limit=need))
    np.testing.assert_array_equal(some, forward(case))
    if dtype == "float16":
        with pytest.raises(ValueError, match=f"at least {need} bytes"):
            forward(case, Options(workspace_limit=need - 1))


@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0)])
def test_empty(batch: int, queries: int) -> None:
    assert forward(attention(batch=batch, queries=queries)).size == 0


def one_sample(
    x: float, y: float, size: tuple[int, int] = (2, 4), mask: float = 1.0
) -> CanonicalSum:
    """An attention with one level, one tap; pixel coordinates; pixels 1, 2, 3 ... row by row."""
    case = attention([(*size, 1)], batch=1, queries=1, groups=1, channels=1)
    case.input[...] = np.arange(1, case.input.size + 1).reshape(case.input.shape)
    case.offset[...] = (x + 0.5) / size[1], (y + 0.5) / size[0]
    case.mask[...] = mask
    return case


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0, 0, 1.0),
        (1.5, 0.25, 3.5),
        (-1, 0, 0.0),
        (0, -1, 0.0),
        (-0.25, 0, 0.75),
        (3.5, 1, 4.0),
        (4, 1, 0.0),
        (0, 2, 0.0),
        (np.inf, 0, 0.0),
        (0, -np.inf, 0.0),
        (1e30, 0, 0.0),
        (np.nan, 0, np.nan),
        (-99, np.nan, np.nan),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_borders(x: float, y: float, expected: float, dtype: str) -> None:
    assert_equal = np.testing.assert_array_equal
    assert_equal(forward(one_sample(x, y).cast(dtype)).reshape(-1), [expected])


def test_infinite_pixels_and_masks() -> None:
    outside = one_sample(3.5, 1)  # its corners to the right are out of bounds
    outside.input[...] = np.inf
    assert forward(outside).item() == np.inf
    zero = one_sample(0, 0, mask=0.0)
    zero.input[...] = np.inf
    assert np.isnan(forward(zero).item())
    at_minus_one = one_sample(-1, 0)
    at_minus_one.input[...] = np.inf
    assert forward(at_minus_one).item() == 0
    # The weights of three corners are 0 here; they do not meet the mask.
    assert forward(one_sample(0, 0, mask=np.inf)).item() == np.inf


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("x", [-9.0, np.inf, -1.0])
def test_a_mask_multiplies_samples_that_reach_no_pixel(x: float, bad: float) -> None:
    """As in a convolution, where zero times a mask that is not finite is NaN."""
    assert np.isnan(forward(one_sample(x, 0, mask=bad)).item())


def test_levels_do_not_bleed() -> None:
    case = attention([(2, 3, 0), (2, 3, 1), (2, 3, 0)], queries=64, groups=1, channels=1)
    ones = np.zeros((2, 3, 6))
    ones[:, 1] = 1
    case.input[...] = ones.reshape(case.input.shape)
    case.mask[...] = 1
    alone = attention([(2, 3, 1)], queries=64, groups=1, channels=1)
    alone.input[...], alone.mask[...], alone.offset[...] = 1, 1, case.offset
    np.testing.assert_array_equal(forward(case), forward(alone))


def test_a_nan_stays_in_its_position_and_group() -> None:
    case = attention(dtype="float32")
    case.offset[1, 2, 0, 1, 3, 0] = np.nan
    bad = np.isnan(forward(case)).all(axis=-1)
    assert bad[1, 2, 0, 1]
    assert bad.sum() == 1


def test_the_order_of_the_taps_of_a_grid() -> None:
    grid = ScaledGrid((3, 5), (1, 1), (1, 2), (1, 1), 1.0, False)
    case = dcnv3(grid, size=(5, 7), out=(5, 7), batch=1, groups=1, channels=1)
    case.offset[...] = 0
    for tap in range(15):
        case.mask[...] = np.eye(15)[tap]
        x, y = tap // 5 - 1, tap % 5 - 2
        shifted = np.zeros((5, 7))
        to = slice(max(0, -y), 5 - max(0, y)), slice(max(0, -x), 7 - max(0, x))
        source = slice(max(0, y), 5 + min(0, y)), slice(max(0, x), 7 + min(0, x))
        shifted[to] = case.input[0, :, :, 0, 0][source]
        np.testing.assert_array_equal(forward(case)[0, :, :, 0, 0], shifted)


def test_a_far_coordinate_of_a_grid_keeps_its_precision() -> None:
    case = dcnv3(PLAIN_GRID, size=(2, 6000), out=(2, 6000), batch=1, groups=1, channels=1)
    case.offset[...] = 0.3
    case.input[0, 0, :, 0, 0] = np.arange(6000) % 2
    single = case.cast("float32")
    agrees(single, forward(single), "float32")


def test_half_values_with_float32_locations_in_a_wide_level() -> None:
    case = attention([(1, 4096, 1)], batch=1, queries=9, groups=1, channels=1)
    case.input[...] = np.arange(4096).reshape(case.input.shape) / 4
    x = np.linspace(1001.25, 1003.25, 9)
    case.offset[0, :, 0, 0, 0] = np.stack([(x + 0.5) / 4096, np.full(9, 0.5)], axis=1)
    case.mask[...] = 1
    output = forward(case.cast("float16", "float32"))
    np.testing.assert_allclose(output.reshape(-1), x / 4, atol=0.07)
