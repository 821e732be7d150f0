"""Where taps sample, their statistics, their pictures; for arrays of any library."""

import re
from typing import Any

import numpy as np
import pytest

import cudeform

CASE = {"kernel_size": (2, 3), "stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}
IMAGE = (9, 8)  # with CASE: an output of 5 x 7


def random_offset(*, seed: int = 0, scale: float = 2.0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (2, 2 * 2 * 2 * 3, 5, 7)).astype(np.float32)


def looped_locations(offset: Any) -> Any:
    """The definition, element by element."""
    result = np.empty((2, 2, 2, 3, 2, 5, 7), np.float32)
    for n, og, i, j, axis, oy, ox in np.ndindex(*result.shape):
        channel = ((og * 2 + i) * 3 + j) * 2 + axis
        regular = (oy * 2 - 1 + i * 1) if axis == 0 else (ox * 1 - 2 + j * 2)
        result[n, og, i, j, axis, oy, ox] = regular + offset[n, channel, oy, ox]
    return result


def assert_same(stats: Any, offset: Any) -> None:
    """Statistics of another library's array are those of NumPy's, up to rounding."""
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
    held = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    assert 0.7 < held.mean() < 1
    np.testing.assert_allclose(output[held], (100 * y + x)[held], rtol=1e-12)


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
        (ValueError, "(N, 2*offset_groups*KH*KW, OH, OW)", (np.zeros((18, 4, 4)), 3)),
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
    places = looped_locations(offset).reshape(2, 2, 6, 2, 5, 7)
    for group in (slice(0, 1), slice(1, 2), slice(None)):
        dy, dx = pairs[:, group, :, 0], pairs[:, group, :, 1]
        y, x = places[:, group, :, 0], places[:, group, :, 1]
        finite = np.isfinite(dy) & np.isfinite(dx)
        length = np.sqrt(dy[finite] ** 2 + dx[finite] ** 2)
        known = ~np.isnan(y) & ~np.isnan(x)
        out = known & ((y <= -1) | (y >= 9) | (x <= -1) | (x >= 8))
        got = stats if group == slice(None) else stats.groups[group.start]
        assert got.mean == pytest.approx(length.mean(), rel=1e-6)
        assert got.largest == pytest.approx(length.max(), rel=1e-6)
        assert got.outside == pytest.approx(out.mean(), abs=1e-9)
        assert got.non_finite == pytest.approx((~finite).mean(), abs=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("move", "outside"), [(-1.0, 1), (-0.999, 0), (0.999, 0), (1.0, 1)])
def test_exactly_one_pixel_outside_is_outside(axis: int, move: float, outside: int) -> None:
    offset = np.zeros((1, 2, 1, 1))
    offset[0, axis] = move
    assert cudeform.offset_stats(offset, (1, 1), 1).outside == outside


def test_statistics_say_the_worst_in_one_line() -> None:
    offset = np.zeros((1, 3 * 2, 4, 4))
    offset[:, 2] = 3.0
    line = str(cudeform.offset_stats(offset, (4, 4), 1))
    assert "\n" not in line
    assert line.startswith("offsets: mean 1.00 px, largest 3.0 px, outside 25.0%, non-finite 0.0%")
    assert line.endswith("widest of 3 groups: number 1, mean 3.00 px")


def test_statistics_of_nothing_and_of_nothing_finite() -> None:
    nothing = cudeform.offset_stats(np.zeros((0, 18, 4, 4)), (4, 4), 3, padding=1)
    assert nothing.mean == nothing.outside == nothing.non_finite == 0
    lost = cudeform.offset_stats(np.full((1, 18, 4, 4), np.nan), (4, 4), 3, padding=1)
    assert (lost.mean, lost.largest, lost.outside, lost.non_finite) == (0, 0, 0, 1)


def test_statistics_refuse_an_image_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"offset must have shape .* \(2, 24, 6, 7\)"):
        cudeform.offset_stats(random_offset(), (11, 8), **CASE)


def test_arrays_of_any_other_library_go_by_dlpack() -> None:
    strict = pytest.importorskip("array_api_strict")
    offset = random_offset()
    theirs = strict.asarray(offset)
    found = cudeform.sampling_locations(theirs, **CASE)
    assert type(found) is type(theirs)
    np.testing.assert_array_equal(np.from_dlpack(found), looped_locations(offset))
    assert_same(cudeform.offset_stats(theirs, IMAGE, **CASE), offset)


class NoWayBack:
    """An array of a library without from_dlpack."""

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.__dlpack__ = array.__dlpack__
        self.__dlpack_device__ = array.__dlpack_device__


def test_a_library_without_a_way_back_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"pass numpy\.from_dlpack"):
        cudeform.sampling_locations(NoWayBack(random_offset()), **CASE)


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


@pytest.fixture
def pyplot() -> Any:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def marks(panel: Any) -> dict[str, Any]:
    """Places (x, y) of the marks that were drawn, by kind."""
    return {c.get_label(): np.asarray(c.get_offsets()) for c in panel.collections}


def test_a_picture_shows_the_taps_where_they_are(pyplot: Any) -> None:
    image = np.random.default_rng(0).random((1, 3, 9, 8), dtype=np.float32)
    offset, mask = random_offset(scale=0.5), np.full((2, 12, 5, 7), 0.5)
    axes = cudeform.plot_sampling(image, offset[:1], **CASE, mask=mask[:1], positions=[(2, 3)])
    assert len(axes) == 2  # offset groups
    where = cudeform.sampling_locations(offset, **CASE)
    for group, panel in enumerate(axes):
        drawn = marks(panel)["moved"]
        expected = where[0, group, ..., 2, 3].reshape(-1, 2)[:, ::-1]
        np.testing.assert_allclose(drawn, expected, rtol=1e-6)
        regular = [(x, y) for y in (3, 4) for x in (1, 3, 5)]
        np.testing.assert_array_equal(marks(panel)["regular"], regular)
    axes[0].figure.canvas.draw()


def test_taps_outside_and_lost_are_marked(pyplot: Any) -> None:
    offset = np.zeros((1, 2 * 9, 8, 8))
    offset[0, 0, 4, 4], offset[0, 3, 4, 4], offset[0, 5, 4, 4] = -100.0, np.nan, np.inf
    (panel,) = cudeform.plot_sampling(np.ones((8, 8)), offset, 3, padding=1)
    counts = {kind: len(places) for kind, places in marks(panel).items()}
    assert (counts["regular"], counts["moved"], counts["outside"], counts["lost"]) == (9, 6, 1, 2)
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    assert names == ["regular tap", "where it samples", "outside: 0", "not finite"]
    cudeform.plot_sampling(np.ones((8, 8)), offset, 3, padding=1, zoom=2)[0].figure.canvas.draw()


def test_pictures_use_the_axes_that_they_are_given(pyplot: Any) -> None:
    _, (left, right) = pyplot.subplots(1, 2)
    offset = random_offset()
    image = np.ones((2, 5, 9, 8))
    given = [left, right]
    assert cudeform.plot_sampling(image, offset, **CASE, ax=given) == given
    assert cudeform.plot_displacement(offset, **CASE, ax=left, groups=[1]) == [left]
    with pytest.raises(ValueError, match="each of 2 panels, got 1"):
        cudeform.plot_sampling(image, offset, **CASE, ax=left)
    assert len(pyplot.get_fignums()) == 1


@pytest.mark.parametrize("colours", [False, True])
def test_a_dense_picture_has_a_panel_for_each_group(pyplot: Any, colours: bool) -> None:
    offset = random_offset()
    offset[0, 0, 0, 0] = np.nan
    axes = cudeform.plot_displacement(
        offset, **CASE, image=np.ones((2, 1, 9, 8)), index=1, colours=colours
    )
    assert [panel.get_title() for panel in axes] == ["offset group 0", "offset group 1"]
    axes[0].figure.canvas.draw()


def test_colours_tell_directions_lengths_and_what_is_not_finite(pyplot: Any) -> None:
    offset = np.zeros((1, 2, 1, 8))
    # Still, right, down, left, up, half as far right, and two that are lost.
    offset[0, 0, 0] = [0, 0, 2, 0, -2, 0, np.nan, np.inf]
    offset[0, 1, 0] = [0, 2, 0, -2, 0, 1, 0, 0]
    (panel,) = cudeform.plot_displacement(offset, 1, colours=True)
    still, right, down, left, up, half, nan, inf = panel.images[0].get_array()[0]
    np.testing.assert_array_equal(still, [1, 1, 1])
    np.testing.assert_array_equal([nan, inf], np.zeros((2, 3)))
    np.testing.assert_allclose(half, (still + right) / 2, atol=0.02)
    ends = np.stack((right, down, left, up))
    apart = np.abs(ends[:, None] - ends).max(2)
    assert apart[~np.eye(4, dtype=bool)].min() > 0.3


def test_a_picture_of_what_does_not_exist_is_refused(pyplot: Any) -> None:
    offset, image = random_offset(), np.ones((9, 8))
    for text, changes in (
        ("positions must be", {"positions": [(5, 0)]}),
        ("positions must name at least one", {"positions": []}),
        ("groups must be among 0 to 1", {"groups": [2]}),
        ("groups must name at least one", {"groups": []}),
        ("index must be one of 2", {"index": 2}),
        ("mask must have shape", {"mask": np.ones((2, 6, 5, 7))}),
    ):
        with pytest.raises(ValueError, match=text):
            cudeform.plot_sampling(image, offset, **CASE, **changes)
    with pytest.raises(ValueError, match="index must be one of 2"):
        cudeform.plot_displacement(offset, **CASE, index=2)


def test_pictures_take_arrays_of_any_library(pyplot: Any) -> None:
    strict = pytest.importorskip("array_api_strict")
    offset, image = strict.asarray(random_offset()), strict.asarray(np.ones((2, 3, 9, 8)))
    mask = strict.asarray(np.ones((2, 12, 5, 7)))
    cudeform.plot_sampling(image, offset, **CASE, mask=mask, index=1)[0].figure.canvas.draw()
    cudeform.plot_displacement(offset, **CASE, image=image)[0].figure.canvas.draw()


def test_pictures_take_tensors(pyplot: Any) -> None:
    torch = pytest.importorskip("torch")
    offset = torch.tensor(random_offset()).bfloat16().requires_grad_()
    image, mask = torch.rand(2, 3, 9, 8), torch.rand(2, 12, 5, 7)
    axes = cudeform.plot_sampling(image, offset, **CASE, mask=mask, index=1)
    axes[0].figure.canvas.draw()
