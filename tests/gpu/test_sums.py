"""Sums of samples without a filter by the GPU engine: values against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hostcuda import HostDevice
from numpy.lib.stride_tricks import as_strided
from support.sums_cases import (
    OPERANDS,
    RESULTS,
    OnGpu,
    SumCase,
    attention,
    directions,
    expected,
    grid,
)

from cudeform import gpu
from cudeform.arrays import Gradients
from cudeform.gpu import variants
from cudeform.options import Options

CASES = {
    "attention": attention,
    "grid": grid,
    "plain grid": lambda **sizes: grid((3, 3), scale=1.0, remove_center=False, **sizes),
}
CHANNELS = (1, 3, 16, 24, 32, 64)
EPS = 1e-6


def assert_close(got: Any, wanted: Any, error: float, what: str = "") -> None:
    """Check for an error relative to the largest value."""
    atol = error * max(1e-30, abs(np.asarray(wanted, float)).max())
    got, wanted = np.asarray(got, float), np.asarray(wanted, float)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol, err_msg=what)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_are_those_of_plain_loops(
    name: str, channels: int, new_device: Any
) -> None:
    case: SumCase = CASES[name](channels=channels).cast("float32")
    wanted = expected(case)
    on = OnGpu(new_device(), case)
    assert_close(on.output(), wanted["output"], 2e-6)
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("name", CASES)
def test_tangents_and_second_order_are_finite_differences(
    name: str, channels: int, deterministic: bool, new_device: Any
) -> None:
    case: SumCase = CASES[name](channels=channels)
    on = OnGpu(new_device(), case, Options(deterministic=deterministic))
    along = directions(case)

    def moved(arrays: Any, step: float) -> OnGpu:
        changed = {n: getattr(case, n) + step * array for n, array in arrays.items()}
        return OnGpu(on.device, SumCase(case.g, case.arrays | changed), on.options)

    ends = [moved(along, step) for step in (EPS, -EPS)]
    tangent = on.jvp(along)
    assert_close(tangent, (ends[0].output() - ends[1].output()) / (2 * EPS), 1e-7)

    results = on.double(along)
    assert_close(results["grad_output"], tangent, 1e-15)
    # sum(along * grads) is symmetric in its arguments: its gradient is a difference along `along`.
    grads = [end.grads() for end in ends]
    for operand in OPERANDS:
        wanted = (grads[0][operand] - grads[1][operand]) / (2 * EPS)
        assert_close(results[operand], wanted, 1e-7, operand)
    assert set(results) == set(RESULTS)


@pytest.mark.parametrize("coord_dtype", ["float32", None])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("channels", [16, 24, 3])
def test_coordinates_may_be_float32_beside_halves(
    channels: int, dtype: str, coord_dtype: str | None, new_device: Any
) -> None:
    case = attention(channels=channels).cast(dtype, coord_dtype)
    wanted, on = expected(case), OnGpu(new_device(compute_capability=90), case)
    error = 2**-8 if dtype == "bfloat16" else 2**-11
    assert_close(on.output(), wanted["output"], error)
    for operand, grad in on.grads().items():
        assert grad.dtype == getattr(case, operand).dtype
        mixed = operand != "input" and coord_dtype is not None
        assert_close(grad, wanted[operand], 4e-6 if mixed else error, operand)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_images_keep_their_coordinates(dtype: str, new_device: Any) -> None:
    """Float32 locations on 4096 columns, beside halves."""
    case = attention(((2, 4096, 3),), channels=8, groups=1).cast(dtype, "float32")
    assert_close(OnGpu(new_device(), case).output(), expected(case)["output"], 2e-3)


@pytest.mark.parametrize("deterministic", [False, True])
def test_packed_offsets_and_masks_are_read_and_written_where_they_lie(
    deterministic: bool, new_device: Any
) -> None:
    """DCNv4's rows: for each group all pairs, then all masks; padded at the end."""
    case = grid((3, 3), channels=16).cast("float32")
    g, device = case.g, new_device()
    taps = g.taps
    length = -(-g.groups * 3 * taps // 8) * 8
    rows = np.zeros((g.batch, *g.out, length), np.float32)
    groups = rows[..., : g.groups * 3 * taps].reshape(*rows.shape[:3], g.groups, 3 * taps)
    views = {
        "offset": as_strided(
            groups,
            case.offset.shape,
            (*groups.strides[:4], 2 * rows.itemsize, rows.itemsize),
        ),
        "mask": groups[..., 2 * taps :],
    }
    for name, array in views.items():
        array[...] = getattr(case, name)
    packed = SumCase(g, case.arrays | views)
    options = Options(deterministic=deterministic)
    some, others = OnGpu(device, case, options), OnGpu(device, packed, options)
    assert (some.output() == others.output()).all()
    grads = others.grads()
    for name, grad in some.grads().items():
        assert_close(grads[name], grad, 1e-6, name)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["input", "offset", "mask", "grad_output"])
@pytest.mark.parametrize("layout", ["reversed", "gaps", "broadcast"])
def test_operands_may_have_any_strides(
    name: str, layout: str, deterministic: bool, new_device: Any
) -> None:
    case = grid(channels=16).cast("float32")
    array = getattr(case, name)
    match layout:
        case "reversed":
            changed = np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
        case "gaps":
            wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
            changed = wide[..., ::2]
            changed[...] = array
        case _:
            changed = np.broadcast_to(array[:1, :, :, :1], array.shape)
    case = SumCase(case.g, case.arrays | {name: changed})
    wanted = expected(case)
    on = OnGpu(new_device(), case, Options(deterministic=deterministic))
    assert_close(on.output(), wanted["output"], 2e-6)
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)


@pytest.mark.parametrize("rule", ["one_sided", "zero"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_coordinate_of_minus_one(rule: Any, deterministic: bool, new_device: Any) -> None:
    case = grid((3, 3), scale=1.0, remove_center=False, channels=8).cast("float32")
    case.offset[...] = np.round(case.offset)  # whole coordinates, -1 among them
    on = OnGpu(new_device(), case, Options(boundary_grad=rule, deterministic=deterministic))
    wanted = expected(case, rule)
    other = expected(case, "zero" if rule == "one_sided" else "one_sided")
    assert abs(wanted["offset"] - other["offset"]).max() > 0
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)


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


@pytest.mark.promise("reproducible")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_deterministic_gradients_are_the_same_bits_for_any_order_and_chunks(
    dtype: str, new_device: Any
) -> None:
    case = attention(channels=16, batch=3, queries=11).cast(dtype, "float32")
    along = directions(case)

    def run(seed: int, limit: int | None) -> list[bytes]:
        options = Options(deterministic=True, workspace_limit=limit)
        on = OnGpu(new_device(seed=seed), case, options)
        arrays = [*on.grads().values(), *on.double(along).values()]
        return [array.tobytes() for array in arrays]

    first = run(0, None)
    assert run(1, None) == first
    assert run(2, 40_000) == first
    with pytest.raises(ValueError, match="workspace_limit must be at least"):
        run(0, 1000)


@pytest.mark.parametrize("deterministic", [False, True])
def test_wide_indices_give_the_same_bits(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch, new_device: Any
) -> None:
    case = attention(channels=12).cast("float32")
    along, options = directions(case), Options(deterministic=deterministic)

    def results() -> list[bytes]:
        on = OnGpu(new_device(multiprocessors=1), case, options)
        arrays = [on.output(), on.jvp(along), *on.grads().values(), *on.double(along).values()]
        return [array.tobytes() for array in arrays]

    narrow = results()
    monkeypatch.setattr(variants, "MAX_ELEMENTS_32", 0)
    assert results() == narrow


def test_no_workspace_is_needed_where_the_result_has_the_precision_of_sums() -> None:
    case = attention(channels=16).cast("float32")
    on = OnGpu(HostDevice(), case)
    grads = Gradients(**{name: on.device.put(getattr(case, name)) for name in OPERANDS})
    arguments = (on.operands(), case.g, Options(), on.device.put(case.grad_output), grads)
    size: Any = gpu.workspace_bytes
    assert size(gpu.sums_backward, on.device, *arguments) == 0
    halves = OnGpu(HostDevice(), case.cast("float16"))
    grads = Gradients(input=halves.device.put(halves.case.input))
    arguments = (*arguments[:3], halves.device.put(halves.case.grad_output), grads)
    operands = halves.operands()
    assert size(gpu.sums_backward, halves.device, operands, *arguments[1:]) == (4 * case.input.size)


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


@pytest.mark.parametrize("wanted", [("input",), ("offset",), ("mask",), ()])
def test_gradients_that_are_not_wanted(wanted: tuple[str, ...], new_device: Any) -> None:
    case = attention(channels=8).cast("float32")
    on = OnGpu(new_device(), case)
    every, along = expected(case), directions(case, ("offset",))
    for operand, grad in on.grads(wanted).items():
        assert_close(grad, every[operand], 4e-6)
    some, double = on.double(along, wanted), on.double(along)
    for operand, grad in some.items():
        assert_close(grad, double[operand], 1e-6)
