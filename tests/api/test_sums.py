"""Deformable attention, DCNv3 and DCNv4: order of axes and taps, levels, dtypes, errors."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import assert_agrees
from support.functions import functions_of
from support.needs import has
from support.sumcases import ATTENTION, DCNV3, DCNV4, TWO_DTYPES, SumCase, attention, dcn

import cudeform

CASES = {
    "prime queries": attention("prime queries", batch=3, heads=1, queries=13, levels=((2, 3),)),
    "points per level": attention("points per level", points=(3, 1, 2)),
    "levels that touch": attention("levels that touch", reach=(-0.6, 1.6), levels=((2, 2), (3, 2))),
    "one channel": attention("one channel", channels=1, queries=2),
    "many channels": attention("many channels", channels=17, heads=1, queries=2, batch=1),
    "one tap": dcn("one tap", kernel_size=(1, 1)),
    "scale 0.7": dcn("scale 0.7", kernel_size=(3, 1), offset_scale=0.7, padding=((1, 1), (0, 0))),
    "no centre": dcn("no centre", kernel_size=(3, 3), remove_center=True, groups=3, channels=2),
    "rows of DCNv4": dcn("rows", "dcnv4", kernel_size=(1, 2), row=24, stride=(2, 1)),
}


@pytest.mark.parametrize("boundary_grad", ["one_sided", "zero"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_output_and_gradients_are_the_definition(case: SumCase, boundary_grad: str) -> None:
    sums, functions = case.definition(boundary_grad), functions_of(case)
    assert_agrees(functions.forward(**case.arguments), sums["output"], "output")
    with cudeform.options(boundary_grad=boundary_grad):
        grads = functions.backward(**case.backward_arguments)
    for name, grad in grads._asdict().items():
        assert_agrees(grad, sums[name], name)


@pytest.mark.parametrize(("dtype", "coordinates"), [("float32", "float32"), *TWO_DTYPES])
@pytest.mark.parametrize("case", [ATTENTION, DCNV3, DCNV4], ids=lambda case: case.operator)
def test_dtypes(case: SumCase, dtype: str, coordinates: str) -> None:
    case = case.cast(dtype, coordinates)
    sums, functions = case.definition(), functions_of(case)
    output = functions.forward(**case.arguments)
    assert output.dtype == case.grad_output.dtype
    assert_agrees(output, sums["output"], "output")
    for name, grad in functions.backward(**case.backward_arguments)._asdict().items():
        assert grad.dtype == case.operands[name].dtype
        assert_agrees(grad, sums[name], name)


@pytest.mark.parametrize("layout", ["transposed", "reversed", "gapped"])
@pytest.mark.parametrize("case", [ATTENTION, DCNV3, DCNV4], ids=lambda case: case.operator)
def test_any_strides(case: SumCase, layout: str) -> None:
    functions, there = functions_of(case), case.laid_out(layout)
    pairs = [(functions.forward(**there.arguments), functions.forward(**case.arguments))]
    grads = functions.backward(**there.backward_arguments)
    pairs += zip(grads, functions.backward(**case.backward_arguments), strict=True)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_location_on_the_border_of_two_levels_reads_its_own() -> None:
    value = np.ones((1, 12, 1, 1))
    value[:, 6:] = 100.0  # the second level
    x, y = np.meshgrid(np.linspace(0, 1, 9), [0.0, 1.0])
    locations = np.stack([x, y], -1).reshape(1, -1, 1, 1, 1, 2)
    locations = np.concatenate([locations, np.full_like(locations, 9.0)], 3)  # the second: far off
    weights = np.ones(locations.shape[:-1])
    output = cudeform.ms_deform_attn(value, [(2, 3), (3, 2)], locations, weights)
    assert 0 < output.min() <= output.max() <= 1


def test_taps_of_dcnv3_are_counted_column_by_column() -> None:
    image, offset = np.arange(15.0).reshape(1, 5, 3, 1), np.zeros((1, 1, 1, 30))
    seen = []
    for tap in range(15):
        mask = np.zeros((1, 1, 1, 15))
        mask[..., tap] = 1.0
        seen.append(cudeform.dcnv3(image, offset, mask, (5, 3)).item())
    assert seen == [row * 3 + col for col in range(3) for row in range(5)]


def test_x_comes_before_y() -> None:
    image, mask = np.arange(15.0).reshape(1, 5, 3, 1), np.ones((1, 5, 3, 1))
    offset = np.zeros((1, 5, 3, 2))
    offset[..., 0] = 1.0
    right = cudeform.dcnv3(image, offset, mask, 1)
    np.testing.assert_array_equal(right[0, :, :2, 0], image[0, :, 1:, 0])
    rows = np.concatenate([offset, mask], -1)
    np.testing.assert_array_equal(cudeform.dcnv4(image, rows, 1, 1), right)


@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_a_tiny_offset_keeps_its_side(scale: float) -> None:
    """A sample a little to the left of a pixel has the slope to the left, in float32 too."""
    image = np.array([0, 1, 4, 9, 16, 25, 36], np.float32).reshape(1, 1, 7, 1)
    offset, mask = np.zeros((1, 1, 7, 2), np.float32), np.ones((1, 1, 7, 1), np.float32)
    slopes = {}
    for dx in (-1e-9, 1e-9):
        offset[..., 0] = dx
        grads = cudeform.dcnv3_backward(
            np.ones_like(image), image, offset, mask, 1, offset_scale=scale
        )
        slopes[dx] = grads.offset[0, 0, 3, 0]
    np.testing.assert_allclose(list(slopes.values()), [5 * scale, 7 * scale], rtol=1e-6)


def test_float32_locations_of_a_wide_level_of_halves() -> None:
    width = 4096
    value = (np.arange(width) % 2).astype(np.float16).reshape(1, width, 1, 1)
    at = np.arange(7, 4000, 331) + 0.25  # pixels, from centre to centre
    locations = np.full((1, len(at), 1, 1, 1, 2), 0.5, np.float32)
    locations[..., 0] = ((at + 0.5) / width).reshape(1, -1, 1, 1, 1)
    weights = np.ones(locations.shape[:-1], np.float32)
    output = cudeform.ms_deform_attn(value, [(1, width)], locations, weights)
    wanted = np.interp(at, np.arange(width), value.ravel().astype(float))
    np.testing.assert_allclose(output.ravel(), wanted, atol=2e-3)


def test_one_level_is_a_convolution_with_a_unit_weight() -> None:
    case = attention("one level", heads=1, queries=12, levels=((3, 4),), points=5)
    value, locations, _ = case.operands.values()
    ones = np.ones(locations.shape[:-1])
    output = cudeform.ms_deform_attn(value, [(3, 4)], locations, ones)
    image = value.reshape(2, 3, 4, 3).transpose(0, 3, 1, 2)
    points = locations.reshape(2, 3, 4, 5, 2) * [4, 3] - 0.5  # x, y
    rows, cols = np.mgrid[:3, :4]
    offset = np.stack([points[..., 1] - rows[..., None], points[..., 0] - cols[..., None]], -1)
    total = sum(
        cudeform.deform_conv2d(
            image, offset[..., p, :].transpose(0, 3, 1, 2), np.eye(3)[:, :, None, None]
        )
        for p in range(5)
    )
    wanted = np.asarray(total).transpose(0, 2, 3, 1).reshape(2, 12, 3)
    np.testing.assert_allclose(output, wanted, rtol=1e-9, atol=1e-9)


def test_dcnv4_is_dcnv3_of_its_parts() -> None:
    taps, groups = DCNV3.settings["kernel_size"][0] * 2, 2
    offset, mask = (DCNV3.operands[name] for name in ("offset", "mask"))
    shape = (*offset.shape[:3], groups, -1)
    rows = np.concatenate([offset.reshape(shape), mask.reshape(shape)], -1)
    rows = rows.reshape(*offset.shape[:3], groups * taps * 3)
    got = cudeform.dcnv4(DCNV3.operands["input"], rows, groups=groups, **DCNV3.settings)
    np.testing.assert_array_equal(got, cudeform.dcnv3(**DCNV3.arguments))


@pytest.mark.parametrize("empty", ["batch", "queries", "channels"])
def test_nothing_to_do(empty: str) -> None:
    sizes = {"batch": 2, "queries": 3, "channels": 4, empty: 0}
    case = attention(f"no {empty}", **sizes)  # type: ignore[arg-type]
    assert functions_of(case).forward(**case.arguments).shape == case.grad_output.shape
    for name, grad in functions_of(case).backward(**case.backward_arguments)._asdict().items():
        np.testing.assert_array_equal(grad, np.zeros_like(case.operands[name]))


def test_nan_and_infinite_locations() -> None:
    value, weights = np.ones((1, 4, 1, 2)), np.ones((1, 3, 1, 1, 1))
    locations = np.full((1, 3, 1, 1, 1, 2), 0.5)
    locations[0, 0, ..., 0], locations[0, 1, ..., 1] = np.nan, np.inf
    output = cudeform.ms_deform_attn(value, [(2, 2)], locations, weights)
    np.testing.assert_array_equal(output[0], [[np.nan] * 2, [0, 0], [1, 1]])


@pytest.mark.parametrize("kind", [np.array, list, np.int32])
def test_forms_of_spatial_shapes(kind: Any) -> None:
    shapes = ATTENTION.settings["spatial_shapes"]
    given = np.array(shapes, np.int32) if kind is np.int32 else kind(shapes)
    case = replace(ATTENTION, settings={"spatial_shapes": given})
    wanted = cudeform.ms_deform_attn(**ATTENTION.arguments)
    np.testing.assert_array_equal(cudeform.ms_deform_attn(**case.arguments), wanted)


def test_sizes_may_be_an_array_that_only_numpy_can_read() -> None:
    class Sizes:  # as a tensor of TensorFlow
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array(ATTENTION.settings["spatial_shapes"])

    case = replace(ATTENTION, settings={"spatial_shapes": Sizes()})
    wanted = cudeform.ms_deform_attn(**ATTENTION.arguments)
    np.testing.assert_array_equal(cudeform.ms_deform_attn(**case.arguments), wanted)


WRONG: list[tuple[SumCase, dict[str, Any], type[Exception], str]] = [
    (ATTENTION, {"spatial_shapes": [(3, 4), (1, 1), (1, 1)]}, ValueError, "= 14, got (2, 19, 2,"),
    (ATTENTION, {"spatial_shapes": [(19, 1)]}, ValueError, "with L = 1, the levels of"),
    (ATTENTION, {"spatial_shapes": []}, ValueError, "there must be at least one"),
    (ATTENTION, {"spatial_shapes": [3, 4]}, ValueError, "pairs (height, width)"),
    (ATTENTION, {"spatial_shapes": 3}, TypeError, "must be a sequence or an array of integers"),
    (ATTENTION, {"spatial_shapes": [(3.5, 2)]}, TypeError, "made of integers"),
    (ATTENTION, {"points": [2, 2]}, ValueError, "one number for each of the 3 levels"),
    (ATTENTION, {"points": [2, 2, 2]}, ValueError, "(N, Lq, M, sum of points, 2)"),
    (ATTENTION, {"sampling_locations": np.ones((2, 5, 2, 6, 2))}, ValueError, "points=[...]"),
    (ATTENTION, {"attention_weights": np.ones((2, 5, 2, 3))}, ValueError, "(N, Lq, M, L, P)"),
    (ATTENTION, {"attention_weights": None}, TypeError, "attention_weights must be an array"),
    (ATTENTION, {"value": np.ones((2, 19, 6))}, ValueError, "(N, S, M, D)"),
    (DCNV3, {"mask": np.ones((2, 2, 4, 7))}, ValueError, "P = 6 taps"),
    (DCNV3, {"offset": np.ones((2, 2, 4, 12))}, ValueError, "(N, OH, OW, groups*P*2)"),
    (DCNV3, {"kernel_size": (9, 2)}, ValueError, "output height"),
    (DCNV3, {"remove_center": True}, ValueError, "of odd sizes"),
    (DCNV3, {"offset_scale": "1"}, TypeError, "offset_scale must be a number"),
    (DCNV3, {"offset_scale": np.inf}, ValueError, "offset_scale must be finite"),
    (DCNV4, {"groups": 4}, ValueError, "R >= groups*P*3 = 4*2*3 = 24"),
    (DCNV4, {"groups": 0}, ValueError, "groups must be at least 1"),
]


@pytest.mark.parametrize(("case", "changes", "error", "text"), WRONG)
def test_what_does_not_fit_is_refused_in_words(
    case: SumCase, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        functions_of(case).forward(**{**case.arguments, **changes})


@pytest.mark.parametrize(
    ("case", "dtypes", "text"),
    [
        (ATTENTION, ("float32", "float64"), "sampling_locations must have the dtype of value"),
        (ATTENTION, ("float16", "float64"), "float16 or float32, got float64"),
        (DCNV3, ("float64", "float32"), "offset must have the dtype of input, float64"),
    ],
)
def test_dtypes_that_do_not_go_together(case: SumCase, dtypes: tuple[str, str], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        functions_of(case).forward(**case.cast(*dtypes).arguments)


def test_weights_have_the_dtype_of_locations() -> None:
    operands = dict(ATTENTION.cast("float16", "float32").operands)
    operands["attention_weights"] = operands["attention_weights"].astype(np.float16)
    with pytest.raises(TypeError, match="must have the dtype of sampling_locations, float32"):
        cudeform.ms_deform_attn(**operands, **ATTENTION.settings)


def test_names_are_those_of_users() -> None:
    with pytest.raises(ValueError, match=r"among .*'value', 'sampling_locations'"):
        cudeform.ms_deform_attn_backward(**ATTENTION.backward_arguments, needs=("input",))
    with pytest.raises(TypeError, match=r"must be a cudeform.AttentionGradients"):
        functions_of(ATTENTION).jvp(cudeform.Tangents(), **ATTENTION.arguments)
    wrong = cudeform.AttentionGradients(value=np.ones(3))
    with pytest.raises(ValueError, match="tangent of value must have the shape of value"):
        functions_of(ATTENTION).jvp(wrong, **ATTENTION.arguments)


@pytest.mark.skipif(not has("jax"), reason="needs jax")
def test_an_array_that_is_traced_is_refused() -> None:
    import jax

    arrays = ATTENTION.cast("float32").operands
    shapes = np.array(ATTENTION.settings["spatial_shapes"])
    call = jax.jit(lambda s: cudeform.ms_deform_attn(**arrays, spatial_shapes=s))
    with pytest.raises(
        TypeError, match=r"spatial_shapes must have values .* spatial_shapes.tolist"
    ):
        call(shapes)
