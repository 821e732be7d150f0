"""``plot_attention``: the points that queries sample on each level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cudeform

pyplot = pytest.importorskip("matplotlib.pyplot")

SHAPES = [(16, 12), (4, 6)]
LOCATIONS = np.random.default_rng(0).random((2, 5, 3, 2, 4, 2))
WEIGHTS = np.random.default_rng(1).random((2, 5, 3, 2, 4))
IMAGE = np.random.default_rng(2).random((2, 3, 32, 24))


@pytest.fixture(autouse=True)
def no_figures() -> Any:
    pyplot.switch_backend("Agg")
    yield
    pyplot.close("all")


def scattered(panel: Any) -> list[Any]:
    """The marks of a panel, without the lines between pixels."""
    kind = pyplot.matplotlib.collections.PathCollection
    return [each for each in panel.collections if isinstance(each, kind)]


def marks(panel: Any) -> Any:
    """All points of a panel, (x, y), in the order in which they were drawn."""
    return np.concatenate([np.asarray(each.get_offsets()) for each in scattered(panel)])


def test_points_are_in_pixels_of_their_level() -> None:
    panels = cudeform.plot_attention(
        IMAGE, SHAPES, LOCATIONS, WEIGHTS, queries=[3], heads=[2], index=1
    )
    assert [panel.get_title() for panel in panels] == ["level 0: 16 x 12", "level 1: 4 x 6"]
    for level, ((height, width), panel) in enumerate(zip(SHAPES, panels, strict=True)):
        wanted = LOCATIONS[1, 3, 2, level] * (width, height) - 0.5
        np.testing.assert_allclose(marks(panel), wanted)
        assert panel.images[0].get_array().shape == (height, width, 3)


def test_colours_are_weights_and_every_head_and_query_is_drawn() -> None:
    panels = cudeform.plot_attention(IMAGE, SHAPES, LOCATIONS, WEIGHTS, queries=[0, 4])
    drawn = [each.get_array() for each in scattered(panels[1])]
    found = np.concatenate([each for each in drawn if each is not None])
    np.testing.assert_allclose(np.sort(found), np.sort(WEIGHTS[0, [0, 4], :, 1].ravel()))
    assert len(marks(panels[0])) == 2 * 3 * 4


def test_points_that_sample_zeros_are_at_the_edge() -> None:
    far = np.full((1, 1, 1, 1, 3, 2), 0.5)
    far[0, 0, 0, 0, :, 0] = [0.5, 7.0, np.nan]
    (panel,) = cudeform.plot_attention(IMAGE, SHAPES[:1], far)
    outside, inside = scattered(panel)
    assert (len(outside.get_offsets()), len(inside.get_offsets())) == (2, 1)
    left, right = panel.get_xlim()
    assert all(left < x < right for x in np.asarray(outside.get_offsets())[:, 0])


def test_levels_with_different_numbers_of_points() -> None:
    flat = LOCATIONS.reshape(2, 5, 3, 8, 2)
    panels = cudeform.plot_attention(
        IMAGE, SHAPES, flat, WEIGHTS.reshape(2, 5, 3, 8), points=[3, 5]
    )
    assert [len(marks(panel)) for panel in panels] == [9, 15]
    with pytest.raises(ValueError, match="points must add up to 8"):
        cudeform.plot_attention(IMAGE, SHAPES, flat, points=[3, 4])


def test_an_image_smaller_than_a_level_and_a_grey_one() -> None:
    (panel,) = cudeform.plot_attention(np.eye(8), [(16, 12)], LOCATIONS[:, :, :, :1])
    assert panel.images[0].get_array().shape == (16, 12)


def test_what_does_not_exist_is_refused() -> None:
    for wrong, message in (
        ({"queries": [5]}, "queries must be from 0 to 4, got 5"),
        ({"heads": [-1]}, "heads must be from 0 to 2, got -1"),
        ({"queries": []}, "queries must name at least one"),
        ({"index": 2}, "index must be one of 2 images"),
    ):
        with pytest.raises(ValueError, match=message):
            cudeform.plot_attention(IMAGE, SHAPES, LOCATIONS, **wrong)
    with pytest.raises(ValueError, match="sampling_locations must have shape"):
        cudeform.plot_attention(IMAGE, SHAPES, LOCATIONS[..., 0])
    with pytest.raises(ValueError, match="attention_weights must have shape"):
        cudeform.plot_attention(IMAGE, SHAPES, LOCATIONS, LOCATIONS)
