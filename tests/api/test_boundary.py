"""Values at the edge of the image, outside it, and with coordinates that are not finite."""

from typing import Any

import numpy as np
import pytest
from cases import DTYPES
from checks import both, computed

import cudeform

INF, NAN = np.inf, np.nan
RAMP = np.arange(1.0, 10.0).reshape(3, 3)


def sample(
    compute: Any,
    image: Any,
    y: float,
    x: float,
    *,
    mask: float | None = None,
    weight: float = 1.0,
    grad: float = 1.0,
    boundary_grad: str = "one_sided",
    dtype: Any = np.float64,
) -> dict[str, Any]:
    """Output and gradients of one sample of a small image, at (y, x)."""
    image = np.asarray(image, dtype)[None, None]
    results = compute(
        input=image,
        offset=np.array([y, x], dtype).reshape(1, 2, 1, 1),
        weight=np.full((1, 1, 1, 1), weight, dtype),
        stride=image.shape[2:],
        mask=None if mask is None else np.full((1, 1, 1, 1), mask, dtype),
        grad_output=np.full((1, 1, 1, 1), grad, dtype),
        boundary_grad=boundary_grad,
    )
    return {name: array.squeeze() for name, array in results.items()}


@pytest.mark.promise("drop-in")
@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        (-1.25, 0.0),
        (-1.0, 0.0),
        (-0.75, 1.75),
        (-0.5, 3.5),
        (0.0, 7.0),
        (1.25, 7.0),
        (2.0, 7.0),
        (2.25, 5.25),
        (2.5, 3.5),
        (3.0, 0.0),
        (3.25, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@both
def test_samples_fade_to_zero_over_one_pixel(
    compute: Any, dtype: Any, at: float, wanted: float
) -> None:
    sevens = np.full((3, 3), 7.0)
    assert sample(compute, sevens, at, 1.0, dtype=dtype)["output"] == wanted
    assert sample(compute, sevens, 1.0, at, dtype=dtype)["output"] == wanted


@both
def test_the_fade_ends_at_zero_without_a_step(compute: Any) -> None:
    just_inside = sample(compute, np.full((3, 3), 7.0), 2.999999999, 1.0)["output"]
    assert just_inside == pytest.approx(7e-9, rel=1e-6)


@both
def test_samples_beyond_a_corner_fade_in_both_directions(compute: Any) -> None:
    assert sample(compute, RAMP, -0.5, -0.5)["output"] == 1 / 4
    assert sample(compute, RAMP, 2.5, 2.5)["output"] == 9 / 4


# Where a sample lies, and the derivatives of its value by y and x on the ramp 1 ... 9.
SLOPES = [
    ((-1.0, 0.0), (1.0, 0.0)),
    ((0.0, -1.0), (0.0, 1.0)),
    ((-1.0, 0.5), (1.5, 0.0)),
    ((0.5, -1.0), (0.0, 2.5)),
    ((-1.0, -1.0), (0.0, 0.0)),
    ((-1.5, 0.5), (0.0, 0.0)),
    ((0.5, -1.5), (0.0, 0.0)),
    ((3.0, 0.0), (0.0, 0.0)),
    ((0.0, 3.0), (0.0, 0.0)),
    ((2.0, 0.0), (-7.0, 1.0)),
    ((0.0, 2.0), (3.0, -3.0)),
    ((2.5, 0.5), (-7.5, 0.5)),
    ((-0.5, 0.5), (1.5, 0.5)),
    ((1.0, 1.0), (3.0, 1.0)),
    ((0.5, 1.25), (3.0, 1.0)),
    ((-1.0, 2.0), (3.0, 0.0)),
    ((-1.0, 2.5), (1.5, 0.0)),
]


@pytest.mark.promise("drop-in")
@pytest.mark.parametrize(("at", "wanted"), SLOPES)
@both
def test_offset_gradient_is_the_derivative_to_the_right(
    compute: Any, at: tuple[float, float], wanted: tuple[float, float]
) -> None:
    assert tuple(sample(compute, RAMP, *at)["offset"]) == wanted


@pytest.mark.parametrize(("at", "wanted"), SLOPES)
@both
def test_by_the_other_rule_it_is_zero_where_the_sample_is_out_of_range(
    compute: Any, at: tuple[float, float], wanted: tuple[float, float]
) -> None:
    if not all(-1 < coordinate < 3 for coordinate in at):
        wanted = (0.0, 0.0)
    grad = sample(compute, RAMP, *at, boundary_grad="zero")["offset"]
    assert tuple(grad) == wanted


@pytest.mark.parametrize("boundary_grad", ["one_sided", "zero"])
def test_the_rules_differ_only_in_the_offset_gradient(boundary_grad: str) -> None:
    one = sample(computed, RAMP, -1.0, 0.5, mask=2.0, boundary_grad=boundary_grad)
    assert one["offset"][0] == {"one_sided": 3.0, "zero": 0.0}[boundary_grad]
    assert (one["mask"], one["output"], one["weight"]) == (0.0, 0.0, 0.0)
    assert not one["input"].any()


def test_zero_offsets_with_padding_are_where_the_rules_differ() -> None:
    image, weight = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    offset, grad = np.zeros((1, 18, 4, 4)), np.ones((1, 1, 4, 4))
    grads = {}
    for rule in ("one_sided", "zero"):
        with cudeform.options(boundary_grad=rule):
            call = cudeform.deform_conv2d_backward
            grads[rule] = call(grad, image, offset, weight, padding=1).offset
    differ = np.argwhere(grads["one_sided"] != grads["zero"])
    # Taps of the first row at the top edge and of the first column at the left edge; those of the
    # corner see one pixel diagonally, whose weight changes only in second order.
    assert {(int(channel), int(oy), int(ox)) for _, channel, oy, ox in differ} == {
        *((2 * j, 0, ox) for j in range(3) for ox in range(4) if 0 <= ox - 1 + j < 4),
        *((2 * 3 * i + 1, oy, 0) for i in range(3) for oy in range(4) if 0 <= oy - 1 + i < 4),
    }


@both
def test_gradient_of_the_input_is_shared_by_the_neighbours(compute: Any) -> None:
    one = sample(compute, RAMP, 0.25, 1.5, mask=2.0, weight=3.0, grad=5.0)
    wanted = np.zeros((3, 3))
    wanted[0, 1:] = 30 * 0.75 / 2
    wanted[1, 1:] = 30 * 0.25 / 2
    np.testing.assert_array_equal(one["input"], wanted)
    assert one["mask"] == 15 * one["output"] / 6
    assert one["weight"] == 10 * one["output"] / 6


@pytest.mark.promise("safe")
@pytest.mark.parametrize("far", [4.0, -2.0, 70000.0, -1e10, 2.0**31, 2.0**63, 3e38, -3e38])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@both
def test_far_outside_everything_is_zero(compute: Any, dtype: str, far: float) -> None:
    for at in ((far, 0.5), (0.5, far), (far, -far), (far, far)):
        one = sample(compute, RAMP, *at, mask=2.0, dtype=DTYPES[dtype])
        assert all(not array.any() for array in one.values())


@pytest.mark.promise("safe")
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("far", [INF, -INF])
@both
def test_an_infinite_coordinate_is_out_of_range(compute: Any, far: float, dtype: Any) -> None:
    for at in ((far, 0.5), (0.5, far), (far, far), (far, -far), (far, -1.0)):
        one = sample(compute, RAMP, *at, mask=2.0, dtype=dtype)
        assert all(not array.any() for array in one.values())


@pytest.mark.promise("safe")
@pytest.mark.parametrize("at", [(NAN, 1.0), (1.0, NAN), (NAN, NAN), (NAN, 99.0), (NAN, INF)])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@both
def test_a_nan_coordinate_gives_nan_but_reaches_no_pixel(
    compute: Any, dtype: Any, at: tuple[float, float]
) -> None:
    one = sample(compute, RAMP, *at, mask=2.0, dtype=dtype)
    for name in ("output", "offset", "weight", "mask"):
        assert np.isnan(one[name]).all(), name
    assert not one["input"].any()


def test_a_nan_coordinate_stays_in_its_group_and_at_its_position() -> None:
    image, weight = np.ones((1, 4, 3, 3)), np.ones((2, 2, 1, 1))  # 2 groups
    offset = np.zeros((1, 4, 3, 3))  # 2 offset groups
    offset[0, 3, 1, 2] = NAN  # second group, dx
    nan_positions = np.zeros((1, 2, 3, 3), np.bool_)
    nan_positions[0, 1, 1, 2] = True
    output = cudeform.deform_conv2d(image, offset, weight)
    np.testing.assert_array_equal(np.isnan(output), nan_positions)
    lost_offset = np.zeros((1, 4, 3, 3), np.bool_)
    lost_offset[0, 2:, 1, 2] = True
    grads = cudeform.deform_conv2d_backward(np.ones_like(output), image, offset, weight)
    np.testing.assert_array_equal(np.isnan(grads.offset), lost_offset)
    np.testing.assert_array_equal(np.isnan(grads.weight[:, :, 0, 0]), [[0, 0], [1, 1]])
    assert np.isfinite(grads.input).all()
    np.testing.assert_array_equal(grads.input[0, 2:, 1, 2], [0.0, 0.0])


@both
def test_an_infinite_pixel_contaminates_its_neighbour_to_the_left_and_above(
    compute: Any,
) -> None:
    image = [[0.0, INF, 0.0]]
    outputs = [sample(compute, image, 0.0, x)["output"] for x in (0.0, 1.0, 2.0)]
    np.testing.assert_array_equal(outputs, [NAN, INF, 0.0])
    outputs = [sample(compute, np.transpose(image), y, 0.0)["output"] for y in range(3)]
    np.testing.assert_array_equal(outputs, [NAN, INF, 0.0])


@pytest.mark.parametrize("at", [(-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 3.0), (5.0, 5.0)])
@both
def test_a_sample_out_of_range_ignores_even_an_infinite_pixel(
    compute: Any, at: tuple[float, float]
) -> None:
    one = sample(compute, [[INF, INF, INF]], *at)
    assert (one["output"], one["weight"]) == (0, 0)


@both
def test_a_zero_mask_does_not_stop_a_nan(compute: Any) -> None:
    assert np.isnan(sample(compute, [[NAN]], 0.0, 0.0, mask=0.0)["output"])


@both
def test_the_mask_multiplies_samples_that_are_out_of_range_too(compute: Any) -> None:
    assert np.isnan(sample(compute, RAMP, 9.0, 0.0, mask=NAN)["output"])
    assert np.isnan(sample(compute, RAMP, 9.0, 0.0, mask=INF)["output"])
    assert np.isnan(sample(compute, RAMP, INF, 0.0, mask=NAN)["output"])


@both
def test_an_infinite_mask_multiplies_the_sample_not_its_corners(compute: Any) -> None:
    assert sample(compute, RAMP, 1.0, 1.0, mask=INF)["output"] == INF
    assert sample(compute, RAMP, 0.5, 1.0, mask=-INF)["output"] == -INF


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("what", ["mask", "weight", "grad"])
@both
def test_the_input_gradient_reaches_only_pixels_with_a_positive_weight(
    compute: Any, what: str, bad: float
) -> None:
    one = sample(compute, RAMP, 1.0, 0.5, **{"mask": 1.0, what: bad})
    reached = np.zeros((3, 3), np.bool_)
    reached[1, :2] = True
    np.testing.assert_array_equal(np.isfinite(one["input"]), ~reached)
    assert not one["input"][~reached].any()


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("at", [(5.0, 1.0), (-1.5, 1.0), (1.0, 3.0), (INF, 1.0)])
@pytest.mark.parametrize("boundary_grad", ["one_sided", "zero"])
@both
def test_a_sample_of_nothing_has_zero_gradients_whatever_comes_from_above(
    compute: Any, boundary_grad: str, at: tuple[float, float], bad: float
) -> None:
    one = sample(compute, RAMP, *at, mask=2.0, grad=bad, boundary_grad=boundary_grad)
    for name in ("input", "offset", "mask"):
        assert not one[name].any(), name
    assert np.isnan(one["weight"])  # a product of matrices, whose column is 0


@both
def test_at_minus_one_what_comes_from_above_meets_the_slope_alone(compute: Any) -> None:
    one = sample(compute, RAMP, -1.0, 0.5, mask=2.0, grad=INF)
    assert (one["offset"][0], one["mask"]) == (INF, 0)
    one = sample(compute, RAMP, -1.0, 0.5, mask=2.0, grad=INF, boundary_grad="zero")
    assert (*one["offset"], one["mask"]) == (0, 0, 0)


@both
def test_a_displacement_smaller_than_the_last_digit_of_a_coordinate_has_a_side(
    compute: Any,
) -> None:
    squares = np.square(np.arange(5, dtype=np.float32)).reshape(1, 1, 5, 1)
    above, below = [0, 1, 3, 5, 7], [1, 3, 5, 7, -16]
    for displacement, slopes in ((-1e-9, above), (0.0, below), (1e-9, below)):
        offset = np.zeros((1, 2, 5, 1), np.float32)
        offset[:, 0] = displacement  # in float32, 4 - 1e-9 is 4
        results = compute(
            input=squares,
            offset=offset,
            weight=np.ones((1, 1, 1, 1), np.float32),
            grad_output=np.ones((1, 1, 5, 1), np.float32),
        )
        np.testing.assert_allclose(results["output"], squares, atol=1e-8)
        np.testing.assert_array_equal(results["offset"][0, 0, :, 0], slopes)
