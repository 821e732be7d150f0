"""Sampling locations and statistics of offsets, for arrays of any library."""

import re
from typing import Any

import numpy as np
import pytest
from support.inspectcases import CASE, IMAGE, random_offset

import cudeform


def looped_locations(offset: Any) -> Any:
    """The definition, element by element."""
    result = np.empty((2, 2, 2, 3, 2, 5, 7), np.float32)
    for n, og, i, j, axis, oy, ox in np.ndindex(*result.shape):
        channel = ((og * 2 + i) * 3 + j) * 2 + axis
        regular = (oy * 2 - 1 + i * 1) if axis == 0 else (ox * 1 - 2 + j * 2)
        result[n, og, i, j, axis, oy, ox] = regular + offset[n, channel, oy, ox]
    return result


def assert_same(stats: Any, offset: Any) -> None:
    """Statistics of another library's array equal those of NumPy's, up to rounding."""
    wanted = cudeform.offset_stats(offset, IMAGE, **CASE)
    for got, want in zip((stats, *stats.groups), (wanted, *wanted.groups), strict=True):
        for name in ("mean", "largest", "outside", "non_finite"):
            assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-5, abs=1e-6)


def test_locations_are_the_definition() -> None:
    offset = random_offset()
    found = cudeform.sampling_locations(offset, **CASE)
    np.testing.assert_array_equal(found, looped_locations(offset))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_coordinates_are_wide_enough_for_pixels(dtype: str) -> None:
    kind = np.dtype(dtype if dtype != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16)
    offset = np.full((1, 2, 1, 3000), 0.5, kind)
    found = cudeform.sampling_locations(offset, 1)
    assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert found[0, 0, 0, 0, 1, 0, -1] == 2999.5


def test_the_operator_samples_at_these_locations() -> None:
    layout = {"stride": 2, "padding": ((1, 0), (2, 3)), "dilation": (3, 1)}
    height, width = 21, 24
    image = np.add.outer(100.0 * np.arange(height), np.arange(float(width)))[None, None]
    offset = np.random.default_rng(1).uniform(-2, 2, (1, 2 * 6, 10, 14))
    one_hot = np.eye(6).reshape(6, 1, 2, 3)
    output = cudeform.deform_conv2d(image, offset, one_hot, **layout)[0]
    where = cudeform.sampling_locations(offset, (2, 3), **layout).reshape(6, 2, 10, 14)
    y, x = where[:, 0], where[:, 1]
    in_bounds = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    assert 0.7 < in_bounds.mean() < 1
    np.testing.assert_allclose(output[in_bounds], (100 * y + x)[in_bounds], rtol=1e-12)


def test_broadcast_offsets_and_no_images() -> None:
    one = np.arange(8.0).reshape(1, 8, 1, 1)
    wide = np.broadcast_to(one, (3, 8, 4, 5))
    found = cudeform.sampling_locations(wide, 2)
    np.testing.assert_array_equal(found, cudeform.sampling_locations(wide.copy(), 2))
    assert cudeform.sampling_locations(wide[:0], 2).shape == (0, 1, 2, 2, 2, 4, 5)


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "must be an array, got list", ([1.0], 3)),
        (TypeError, "must have a dtype among", (np.zeros((1, 18, 4, 4), int), 3)),
        (ValueError, "multiple of 2*KH*KW = 18", (np.zeros((1, 17, 4, 4)), 3)),
        (ValueError, "(N, 2*offset_groups*KH*KW, OH, OW)", (np.zeros((18, 4)), 3)),
        (ValueError, "multiple of 3*KD*KH*KW = 81", (np.zeros((1, 18, 4, 4, 4)), 3)),
        (ValueError, "a tuple (width,)", (np.zeros((18, 4, 4)), (3, 3))),
        (ValueError, "kernel_size must be at least 1", (np.zeros((1, 18, 4, 4)), 0)),
        (ValueError, "stride must be at least 1", (np.zeros((1, 18, 4, 4)), 3, 0)),
    ],
)
def test_a_wrong_call_is_refused_in_words(error: Any, text: str, call: Any) -> None:
    with pytest.raises(error, match=re.escape(text)):
        cudeform.sampling_locations(*call)


def test_statistics_are_the_definition() -> None:
    offset = random_offset(scale=4.0)
    offset[0, 0, 0, 0], offset[1, 13, 2, 2], offset[1, 14, 1, 1] = np.nan, np.inf, -np.inf
    stats = cudeform.offset_stats(offset, IMAGE, **CASE)
    pairs = offset.reshape(2, 2, 6, 2, 5, 7)
    locations = looped_locations(offset).reshape(2, 2, 6, 2, 5, 7)
    for group in (slice(0, 1), slice(1, 2), slice(None)):
        dy, dx = pairs[:, group, :, 0], pairs[:, group, :, 1]
        y, x = locations[:, group, :, 0], locations[:, group, :, 1]
        finite = np.isfinite(dy) & np.isfinite(dx)
        length = np.sqrt(dy[finite] ** 2 + dx[finite] ** 2)
        out = ~np.isnan(y) & ~np.isnan(x) & ((y <= -1) | (y >= 9) | (x <= -1) | (x >= 8))
        got = stats if group == slice(None) else stats.groups[group.start]
        assert got.mean == pytest.approx(length.mean(), rel=1e-6)
        assert got.largest == pytest.approx(length.max(), rel=1e-6)
        assert got.outside == pytest.approx(out.mean(), abs=1e-9)
        assert got.non_finite == pytest.approx((~finite).mean(), abs=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("displacement", "outside"), [(-1.0, 1), (-0.999, 0), (0.999, 0), (1.0, 1)]
)
def test_one_pixel_from_the_edge_is_outside(axis: int, displacement: float, outside: int) -> None:
    offset = np.zeros((1, 2, 1, 1))
    offset[0, axis] = displacement
    assert cudeform.offset_stats(offset, (1, 1), 1).outside == outside


def test_statistics_print_as_one_line_with_the_worst_group() -> None:
    offset = np.zeros((1, 3 * 2, 4, 4))
    offset[:, 2] = 3.0
    line = str(cudeform.offset_stats(offset, (4, 4), 1))
    assert "\n" not in line
    assert line.startswith("offsets: mean 1.00 px, largest 3.0 px, outside 25.0%, non-finite 0.0%")
    assert line.endswith("widest of 3 groups: number 1, mean 3.00 px")


def test_statistics_of_an_empty_batch_and_of_nan_offsets() -> None:
    empty = cudeform.offset_stats(np.zeros((0, 18, 4, 4)), (4, 4), 3, padding=1)
    assert empty.mean == empty.outside == empty.non_finite == 0
    nans = cudeform.offset_stats(np.full((1, 18, 4, 4), np.nan), (4, 4), 3, padding=1)
    assert (nans.mean, nans.largest, nans.outside, nans.non_finite) == (0, 0, 0, 1)


def test_statistics_refuse_an_image_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"offset must have shape .* \(2, 24, 6, 7\)"):
        cudeform.offset_stats(random_offset(), (11, 8), **CASE)


def test_arrays_of_any_other_library_are_exchanged_by_dlpack() -> None:
    strict = pytest.importorskip("array_api_strict")
    offset = random_offset()
    theirs = strict.asarray(offset)
    found = cudeform.sampling_locations(theirs, **CASE)
    assert type(found) is type(theirs)
    np.testing.assert_array_equal(np.from_dlpack(found), looped_locations(offset))
    assert_same(cudeform.offset_stats(theirs, IMAGE, **CASE), offset)


class WithoutFromDlpack:
    """An array of a library without from_dlpack."""

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.__dlpack__ = array.__dlpack__
        self.__dlpack_device__ = array.__dlpack_device__


def test_a_library_without_from_dlpack_is_refused_in_words() -> None:
    offset = random_offset()
    with pytest.raises(TypeError, match=r"cannot go back .* call numpy\.from_dlpack"):
        cudeform.sampling_locations(WithoutFromDlpack(offset), **CASE)
    assert_same(cudeform.offset_stats(WithoutFromDlpack(offset), IMAGE, **CASE), offset)


def test_torch_keeps_device_and_graph() -> None:
    torch = pytest.importorskip("torch")
    offset = random_offset()
    tensor = torch.tensor(offset, requires_grad=True)
    found = cudeform.sampling_locations(tensor, **CASE)
    np.testing.assert_array_equal(found.detach().numpy(), looped_locations(offset))
    found.sum().backward()
    assert (tensor.grad == 1).all()
    assert_same(cudeform.offset_stats(tensor, IMAGE, **CASE), offset)
    elsewhere = torch.empty(2, 24, 5, 7, device="meta", dtype=torch.bfloat16)
    found = cudeform.sampling_locations(elsewhere, **CASE)
    assert (found.device.type, found.dtype) == ("meta", torch.float32)


def test_jax_traces_it() -> None:
    jax = pytest.importorskip("jax")
    offset = random_offset()
    traced = jax.jit(lambda array: cudeform.sampling_locations(array, **CASE))
    np.testing.assert_array_equal(traced(jax.numpy.asarray(offset)), looped_locations(offset))
    stats = cudeform.offset_stats(jax.numpy.asarray(offset), IMAGE, **CASE)
    assert_same(stats, offset)


@pytest.mark.gpu
def test_cupy_keeps_the_device() -> None:
    cupy = pytest.importorskip("cupy")
    offset = random_offset()
    found = cudeform.sampling_locations(cupy.asarray(offset), **CASE)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_array_equal(found.get(), looped_locations(offset))
    stats = cudeform.offset_stats(cupy.asarray(offset), IMAGE, **CASE)
    assert_same(stats, offset)


@pytest.mark.parametrize(
    ("kernel", "out", "stride", "begin", "dilation"),
    [((3,), (7,), (2,), (1,), (3,)), ((2, 1, 3), (2, 3, 4), (1, 2, 3), (1, 0, 2), (2, 1, 1))],
    ids=["line", "volume"],
)
def test_other_numbers_of_axes(
    kernel: Any, out: Any, stride: Any, begin: Any, dilation: Any
) -> None:
    axes, taps = len(kernel), int(np.prod(kernel))
    rng = np.random.default_rng(axes)
    offset = rng.standard_normal((2, 2 * taps * axes, *out))
    padding = tuple((each, 0) for each in begin)
    settings = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    found = cudeform.sampling_locations(offset, **settings)
    assert found.shape == (2, 2, *kernel, axes, *out)
    wanted = offset.reshape(found.shape).copy()
    for index in np.ndindex(*found.shape):
        axis = index[2 + axes]
        tap, position = index[2 + axis], index[3 + axes + axis]
        wanted[index] += position * stride[axis] - begin[axis] + tap * dilation[axis]
    np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-14)

    size = tuple(
        (n - 1) * s + d * (k - 1) + 1 - b
        for n, s, d, k, b in zip(out, stride, dilation, kernel, begin, strict=True)
    )
    offset[0, 0] = np.nan
    stats = cudeform.offset_stats(offset, size, **settings)
    by_axis = np.moveaxis(offset.reshape(found.shape), 2 + axes, 0)
    finite = np.isfinite(by_axis).all(axis=0)
    length = np.sqrt((by_axis**2).sum(axis=0))
    where = np.moveaxis(cudeform.sampling_locations(offset, **settings), 2 + axes, -1)
    outside = ((where <= -1) | (where >= size)).any(axis=-1) & finite
    assert stats.mean == pytest.approx(length[finite].mean())
    assert stats.largest == pytest.approx(length[finite].max())
    assert stats.outside == pytest.approx(outside.mean())
    assert stats.non_finite == pytest.approx((~finite).mean())
    assert len(stats.groups) == 2


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_transposed_convolution_adds_at_these_locations(axes: int) -> None:
    size, kernel = (5, 4, 6)[-axes:], (2, 3, 2)[-axes:]
    layout: Any = {"stride": (2, 1, 3)[-axes:], "padding": (1, 0, 1)[-axes:]}
    operator = getattr(cudeform, f"deform_conv_transpose{axes}d")
    rng, taps = np.random.default_rng(axes), int(np.prod(kernel))
    offset = rng.integers(-2, 3, (1, axes * taps, *size)).astype(float)
    positions = rng.random((1, 1, *size))
    output = operator(positions, offset, np.ones((1, 1, *kernel)), **layout)[0, 0]
    where = cudeform.sampling_locations(offset, kernel, **layout)[0, 0].astype(int)
    wanted, outside = np.zeros_like(output), 0
    for index in np.ndindex(*kernel, *size):
        tap, position = index[:axes], index[axes:]
        at = tuple(where[(*tap, slice(None), *position)])
        if all(0 <= each < n for each, n in zip(at, output.shape, strict=True)):
            wanted[at] += positions[(0, 0, *position)]
        else:
            outside += 1
    np.testing.assert_allclose(output, wanted, atol=1e-14)
    stats = cudeform.offset_stats(offset, output.shape, kernel, **layout)
    assert stats.outside == pytest.approx(outside / (taps * np.prod(size)))
    assert outside > 0


def test_a_volume_is_not_drawn() -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"OH, OW\) to be drawn, got \(1, 3, 4, 4, 4\)"):
        cudeform.plot_sampling(None, np.zeros((1, 3, 4, 4, 4)), 1)
