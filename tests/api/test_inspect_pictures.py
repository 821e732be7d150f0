"""Pictures of the sampling locations: their marks, and arrays of every library."""

from typing import Any

import numpy as np
import pytest
from support.inspectcases import CASE, random_offset

import cudeform


@pytest.fixture
def pyplot() -> Any:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def marks(panel: Any) -> dict[str, Any]:
    """Locations (x, y) of the marks that were drawn, by kind."""
    return {c.get_label(): np.asarray(c.get_offsets()) for c in panel.collections}


def test_a_picture_shows_the_taps_where_they_are(pyplot: Any) -> None:
    image = np.random.default_rng(0).random((1, 3, 9, 8), dtype=np.float32)
    offset, mask = random_offset(scale=0.5), np.full((2, 12, 5, 7), 0.5)
    axes = cudeform.plot_sampling(image, offset[:1], **CASE, mask=mask[:1], positions=[(2, 3)])
    assert len(axes) == 2  # offset groups
    where = cudeform.sampling_locations(offset, **CASE)
    for group, panel in enumerate(axes):
        drawn = marks(panel)["sampled"]
        expected = where[0, group, ..., 2, 3].reshape(-1, 2)[:, ::-1]
        np.testing.assert_allclose(drawn, expected, rtol=1e-6)
        regular = [(x, y) for y in (3, 4) for x in (1, 3, 5)]
        np.testing.assert_array_equal(marks(panel)["regular"], regular)
    axes[0].figure.canvas.draw()


def test_taps_that_are_outside_or_not_finite_are_marked(pyplot: Any) -> None:
    offset = np.zeros((1, 2 * 9, 8, 8))
    offset[0, 0, 4, 4], offset[0, 3, 4, 4], offset[0, 5, 4, 4] = -100.0, np.nan, np.inf
    (panel,) = cudeform.plot_sampling(np.ones((8, 8)), offset, 3, padding=1)
    counts = {kind: len(locations) for kind, locations in marks(panel).items() if len(locations)}
    kinds = {"regular": 9, "sampled": 6, "outside": 1, "non-finite": 2}
    assert {kind: counts[kind] for kind in kinds} == kinds
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    assert names == ["regular tap", "where it samples", "outside: 0", "not finite"]
    cudeform.plot_sampling(np.ones((8, 8)), offset, 3, padding=1, zoom=2)[0].figure.canvas.draw()


def test_a_signal_is_a_curve_with_the_taps_on_it(pyplot: Any) -> None:
    signal = np.arange(20.0) ** 2
    offset, mask = np.zeros((2, 2 * 3, 20)), np.full((2, 2 * 3, 20), 0.5)
    offset[1, :, 9] = [0.5, -20, np.nan, 0, 4.25, np.inf]  # two groups of three taps
    image = np.stack((signal, signal + 2))[None].repeat(2, 0)
    axes = cudeform.plot_sampling(image, offset, 3, padding=1, mask=mask, index=1, positions=[9])
    assert [panel.get_title() for panel in axes] == ["offset group 0", "offset group 1"]
    first, second = map(marks, axes)
    np.testing.assert_array_equal(first["regular"], [[8, 65], [9, 82], [10, 101]])
    np.testing.assert_array_equal(first["sampled"], [[8.5, (65 + 82) / 2]])
    np.testing.assert_array_equal(second["sampled"], [[8, 65], [13.25, 0.75 * 170 + 0.25 * 197]])
    assert (len(first["outside"]), len(first["non-finite"])) == (1, 1)
    assert first["outside"][0, 0] == pytest.approx(axes[0].get_xlim()[0], abs=0.5)
    assert len(second["non-finite"]) == 1
    assert axes[0].get_xlim() == axes[1].get_xlim()
    axes[0].figure.canvas.draw()
    (panel,) = cudeform.plot_sampling(signal, offset[:1], 3, padding=1, groups=[1], zoom=2)
    assert panel.get_xlim() == (7, 13)  # taps at 9, 10, 11
    panel.figure.canvas.draw()


def test_a_signal_that_does_not_fit_is_refused(pyplot: Any) -> None:
    offset, signal = np.zeros((1, 3, 20)), np.zeros(20)
    for text, image, changes in (
        (r"image must have shape \(W,\)", np.zeros((1, 1, 4, 4)), {}),
        (r"positions must be \(ox\) with ox < 20, got \(20,\)", signal, {"positions": [20]}),
        (r"positions must be \(ox\)", signal, {"positions": [(1, 2)]}),
        (
            r"mask must have shape \(N, offset_groups\*KW, OW\)",
            signal,
            {"mask": np.ones((1, 3, 9))},
        ),
    ):
        with pytest.raises(ValueError, match=text):
            cudeform.plot_sampling(image, offset, 3, padding=1, **changes)
    with pytest.raises(ValueError, match=r"offset must have shape .* to be drawn"):
        cudeform.plot_displacement(offset, 3, padding=1)


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


def test_colours_show_direction_length_and_non_finite_displacements(pyplot: Any) -> None:
    offset = np.zeros((1, 2, 1, 8))
    # Not displaced, right, down, left, up, half as far right, and two that are not finite.
    offset[0, 0, 0] = [0, 0, 2, 0, -2, 0, np.nan, np.inf]
    offset[0, 1, 0] = [0, 2, 0, -2, 0, 1, 0, 0]
    (panel,) = cudeform.plot_displacement(offset, 1, colours=True)
    zero, right, down, left, up, half, nan, inf = panel.images[0].get_array()[0]
    np.testing.assert_array_equal(zero, [1, 1, 1])
    np.testing.assert_array_equal([nan, inf], np.zeros((2, 3)))
    np.testing.assert_allclose(half, (zero + right) / 2, atol=0.02)
    ends = np.stack((right, down, left, up))
    apart = np.abs(ends[:, None] - ends).max(2)
    assert apart[~np.eye(4, dtype=bool)].min() > 0.3


def test_arguments_that_do_not_fit_are_refused(pyplot: Any) -> None:
    offset, image = random_offset(), np.ones((9, 8))
    for text, changes in (
        ("positions must be", {"positions": [(5, 0)]}),
        ("positions must name at least one", {"positions": []}),
        ("groups must be from 0 to 1", {"groups": [2]}),
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


@pytest.mark.parametrize(
    ("length", "label"), [(0, "x"), (0.1, "x (arrows drawn 16 times as long)")]
)
def test_arrows_say_their_scale_where_there_is_something_to_scale(
    length: float, label: str
) -> None:
    offset = np.zeros((1, 2, 8, 8))
    offset[:, 0] = length
    (panel,) = cudeform.plot_displacement(offset, 1)
    assert panel.get_xlabel() == label
