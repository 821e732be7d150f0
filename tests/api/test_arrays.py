"""Arguments and results: strides, broadcasts, dtypes, aliases, and omitted gradients."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import ARRAYS, DTYPES, HALF_DTYPES, LAYOUTS, Case, build, named
from checks import assert_case_agrees, computed, measured_peak
from numpy.testing import assert_array_equal

import cudeform

CASE = named("torchvision, offset half")
MIB = 2**20


def results(case: Case) -> dict[str, Any]:
    return computed(**case.backward_arguments)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, array in one.items():
        assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.promise("any array")
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "contiguous"])
def test_strides_of_one_array_do_not_matter(name: str, layout: str) -> None:
    array = LAYOUTS[layout](getattr(CASE, name))
    assert_same(results(replace(CASE, **{name: array})), results(CASE))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_are_what_they_say(layout: str) -> None:
    array = LAYOUTS[layout](CASE.input)
    assert_array_equal(array, CASE.input)
    strides, item = array.strides, array.itemsize
    assert {
        "contiguous": array.flags.c_contiguous,
        "transposed": array.flags.f_contiguous,
        "channels last": strides[1] == item,
        "reversed": max(strides) < 0,
        "gapped": min(strides) == 2 * item,
    }[layout]


def test_an_array_may_begin_at_an_odd_address() -> None:
    def unaligned(array: Any) -> Any:
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        view = raw.view(array.dtype).reshape(array.shape)
        view[...] = array
        return view

    assert not unaligned(CASE.input).flags.aligned
    assert_same(results(CASE.map(unaligned)), results(CASE))


def test_read_only_arrays_are_taken() -> None:
    def locked(array: Any) -> Any:
        copy = array.copy()
        copy.flags.writeable = False
        return copy

    assert_same(results(CASE.map(locked)), results(CASE))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [CASE.name, "kernel of one tap"])
def test_nothing_is_written_into_an_argument(name: str, layout: str) -> None:
    case = named(name).laid_out(layout)
    before = case.map(np.copy)
    results(case)
    for array in ARRAYS:
        assert_array_equal(getattr(case, array), getattr(before, array), err_msg=array)


@pytest.mark.parametrize("name", ["kernel of one tap", "one tap, one channel, one pixel"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_no_result_shares_memory_with_an_argument_or_another_result(name: str, layout: str) -> None:
    case = named(name).laid_out(layout)
    new = list(results(case).values())
    for index, array in enumerate(new):
        assert array.flags.writeable
        others = new[:index] + [getattr(case, name) for name in ARRAYS]
        assert not any(np.shares_memory(array, other) for other in others)


@pytest.mark.parametrize("offset", ["normal", "large", "whole", "nan and inf"])
@pytest.mark.parametrize(
    "narrow",
    [np.s_[:1], np.s_[:, :, :1], np.s_[..., :1], np.s_[:, :, :1, :1], np.s_[:1, :1, :1, :1]],
    ids=["images", "rows", "columns", "positions", "all"],
)
def test_broadcast_arrays_give_what_their_copies_give(narrow: Any, offset: str) -> None:
    case = build("broadcast", batch=3, offset_groups=2, padding=((1, 1), (1, 1)), offset=offset)
    case = replace(
        case,
        offset=np.broadcast_to(case.offset[narrow], case.offset.shape),
        mask=np.broadcast_to(case.mask[narrow], case.mask.shape),
        grad_output=np.broadcast_to(case.grad_output[narrow], case.grad_output.shape),
    )
    assert 0 in case.offset.strides
    assert_same(results(case), results(case.map(np.ascontiguousarray)))


@pytest.mark.parametrize(
    ("name", "kernel", "out_channels"), [("offset", 7, 1), ("mask", 7, 1), ("grad_output", 2, 40)]
)
def test_broadcast_arrays_are_not_materialised(name: str, kernel: int, out_channels: int) -> None:
    case = build(
        "big broadcast",
        batch=1,
        channels=1,
        size=(200, 200),
        kernel=(kernel, kernel),
        out_channels=out_channels,
    ).cast("float32")
    array = getattr(case, name)
    thin = replace(case, **{name: np.broadcast_to(array.flat[0], array.shape)})
    allowed = 4 * MIB + 3 * case.input.nbytes  # the workspace, copies of the image, its gradient
    assert allowed < array.nbytes
    with cudeform.options(workspace_limit=4 * MIB, num_threads=2):
        results(thin)  # what is compiled and imported is there from now on
        with measured_peak() as peak:
            cudeform.deform_conv2d_backward(**thin.backward_arguments, needs=("input", "weight"))
        assert peak.nbytes < allowed
        with measured_peak() as peak:
            cudeform.deform_conv2d(**thin.arguments)
        assert peak.nbytes < allowed + case.grad_output.nbytes


@pytest.mark.promise("any array")
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_dtype_and_the_shape_of_their_arguments(dtype: str) -> None:
    case = CASE.cast(dtype)
    for name, array in results(case).items():
        like = case.grad_output if name == "output" else getattr(case, name)
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (like.dtype, like.shape)


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_half_precision_is_rounded_once(dtype: str) -> None:
    # 2049 ones: a sum kept in float16 stops at 2048, one kept in bfloat16 at 256.
    ones = np.ones((1, 2049, 1, 1), DTYPES[dtype])
    offset = np.zeros((1, 2, 1, 1), DTYPES[dtype])
    output = cudeform.deform_conv2d(ones, offset, ones)
    assert output.item() == np.array(2049).astype(DTYPES[dtype]).item()
    grads = cudeform.deform_conv2d_backward(output / output, ones, offset, ones, mask=offset[:, :1])
    assert grads.mask.item() == np.array(2049).astype(DTYPES[dtype]).item()


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_half_precision_coordinates_are_exact_in_wide_images(dtype: str) -> None:
    width = 5000
    image = np.arange(width) % 200
    case = Case(
        name="every pixel",
        input=image.reshape(1, 1, 1, width).astype(DTYPES[dtype]),
        offset=np.zeros((1, 2, 1, width), DTYPES[dtype]),
        weight=np.ones((1, 1, 1, 1), DTYPES[dtype]),
        bias=None,
        mask=None,
        grad_output=np.ones((1, 1, 1, width), DTYPES[dtype]),
    )
    assert_array_equal(cudeform.deform_conv2d(**case.arguments).ravel(), image)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [100_000, 2**24 + 1])  # which float32 does not have
def test_a_coordinate_keeps_the_precision_of_its_offset(dtype: str, last: int) -> None:
    image = np.zeros((1, 1, 1, last + 1), DTYPES[dtype])
    image[..., -1] = 1
    offset = np.array([0.0, 0.0, 0.0, -0.1]).reshape(1, 4, 1, 1).astype(DTYPES[dtype])
    weight = np.ones((1, 1, 1, 2), DTYPES[dtype])
    output = cudeform.deform_conv2d(image, offset, weight, dilation=last)
    assert output.item() == pytest.approx(0.9, rel=1e-7 if dtype == "float32" else 1e-15)


def test_the_result_is_a_plain_array_for_a_subclass() -> None:
    class Tagged(np.ndarray):
        pass

    case = CASE.map(lambda array: array.view(Tagged))
    for array in results(case).values():
        assert type(array) is np.ndarray


def test_one_array_may_be_passed_twice() -> None:
    ones = np.ones((2, 2, 1, 1))
    output = cudeform.deform_conv2d(ones, 0 * ones, ones)
    assert_array_equal(output, np.full((2, 2, 1, 1), 2.0))
    grads = cudeform.deform_conv2d_backward(ones, ones, 0 * ones, ones)
    assert_array_equal(grads.input, np.full((2, 2, 1, 1), 2.0))


def test_a_missing_mask_is_a_mask_of_ones_and_a_missing_bias_one_of_zeros() -> None:
    ones = replace(CASE, mask=np.ones_like(CASE.mask), bias=np.zeros_like(CASE.bias))
    without, given = results(replace(CASE, mask=None, bias=None)), results(ones)
    assert without.keys() == {"output", "input", "offset", "weight"}
    for name, array in without.items():
        np.testing.assert_allclose(array, given[name], rtol=1e-12, atol=1e-12)


def test_needs_nothing_gives_nothing() -> None:
    grads = cudeform.deform_conv2d_backward(**CASE.backward_arguments, needs=())
    assert grads == (None,) * 5


def test_gradients_come_in_the_order_of_the_names() -> None:
    assert cudeform.Gradients._fields == ("input", "offset", "weight", "bias", "mask")


@pytest.mark.parametrize("form", [lambda n: n, lambda n: (n, n), lambda n: [n, n], np.int64])
def test_sizes_may_be_a_number_or_a_pair(form: Any) -> None:
    case = build("sizes", stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(2, 2), size=(9, 9))
    sizes = {"stride": form(2), "padding": form(1), "dilation": form(2)}
    case = replace(case, **sizes)
    assert_case_agrees(case.cast("float64"))


@pytest.mark.parametrize("name", ARRAYS)
def test_masked_arrays_are_refused(name: str) -> None:
    arguments = CASE.backward_arguments
    arguments[name] = np.ma.masked_invalid(arguments[name])
    with pytest.raises(
        TypeError, match=rf"^{name} must be a plain array, got MaskedArray: .*fille"
    ):
        cudeform.deform_conv2d_backward(**arguments)


def test_a_matrix_is_no_bias() -> None:
    bias = CASE.bias.view(np.matrix)
    with pytest.raises(ValueError, match=r"^bias must have shape \(O,\) = \(2,\), got \(1, 2\)"):
        cudeform.deform_conv2d(**CASE.arguments | {"bias": bias})


def test_what_a_subclass_makes_of_operators_does_not_matter() -> None:
    class Odd(np.ndarray):
        def __array_ufunc__(self, *args: Any, **how: Any) -> Any:
            raise AssertionError("the engine computes with plain arrays")

        __array_function__ = __getitem__ = __array_ufunc__

    odd = CASE.map(lambda array: array.view(Odd))
    arrays = {name: getattr(odd, name) for name in cudeform.Gradients._fields}
    tangents = cudeform.Tangents(**arrays)
    got = results(odd)
    assert_same(got, results(CASE))
    got["jvp"] = cudeform.deform_conv2d_jvp(tangents, **odd.arguments)
    seconds = cudeform.deform_conv2d_double_backward(tangents, odd.grad_output, **odd.arguments)
    assert {type(array) for array in (*got.values(), *seconds)} == {np.ndarray}


def test_arrays_in_files_are_read_where_they_lie(tmp_path: Any) -> None:
    def on_disk(array: Any) -> Any:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        array.tofile(path)
        return np.memmap(path, array.dtype, "r", shape=array.shape)

    assert_same(results(CASE.map(on_disk)), results(CASE))
