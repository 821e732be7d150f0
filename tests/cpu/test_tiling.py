"""How a call is cut: boxes cover all positions once, whatever the limit; threads play no part."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cudeform.cpu.tiling import Box, Costs, choose_tiling
from cudeform.geometry import geometry_of

SIZES = st.integers(1, 40)


def geometry(batch: int, channels: int, height: int, width: int):
    shapes = (batch, channels, height, width), (batch, 18, height, width)
    return geometry_of(*shapes, (4, channels, 3, 3), padding=1)


@given(st.integers(1, 5), SIZES, SIZES, st.data())
def test_rectangles_are_the_positions_of_the_box(batch, height, width, data):
    g = geometry(batch, 1, height, width)
    size = batch * g.out_pixels
    first = data.draw(st.integers(0, size - 1))
    box = Box(first, data.draw(st.integers(first + 1, size)), slice(2, 2 + batch))
    numbers = np.arange(size).reshape(batch, height, width)
    found = np.full(len(box), -1)
    for rectangle in box.rectangles(g):
        part = numbers[(rectangle.image - 2, *rectangle.slices)]
        assert (found[rectangle.in_box] == -1).all()
        found[rectangle.in_box] = part.ravel()
    np.testing.assert_array_equal(found, np.arange(box.first, box.last))
    assert len(list(box.rectangles(g))) <= 2 * batch + 1


# The panel must leave memory for at least one position of a box.
@example(batch=1, channels=1, height=1, width=1, more=22)
@given(st.integers(1, 6), st.sampled_from([1, 3, 64, 700]), SIZES, SIZES, st.integers(0, 2**24))
def test_boxes_and_panels_cover_all_positions_and_keep_the_limit(
    batch, channels, height, width, more
):
    g = geometry(batch, channels, height, width)
    columns = 36 * channels
    costs = Costs(
        image=4 * channels * g.in_pixels,
        fixed=1000,
        panel_position=columns,
        box_position=columns + 50,
    )
    limit = costs.fixed + costs.panel_position + costs.box_position + more
    cut = choose_tiling(g, columns, costs, limit)
    images = slice(0, cut.images)
    boxes = cut.boxes(g, images)
    assert boxes[0].first == 0
    assert boxes[-1].last == cut.images * g.out_pixels
    assert all(a.last == b.first for a, b in pairwise(boxes))
    assert max(map(len, boxes)) <= cut.positions
    assert [box.index for box in boxes] == list(range(len(boxes)))
    panels = list(cut.panels(boxes))
    assert [box for panel in panels for box in panel] == boxes
    assert all(panel[-1].last - panel[0].first <= cut.panel for panel in panels)
    used = (
        costs.fixed
        + cut.panel * costs.panel_position
        + cut.workers * cut.positions * costs.box_position
    )
    used += (cut.images > 1) * cut.images * costs.image
    assert used <= limit


@pytest.mark.parametrize(
    ("size", "channels", "boxes"),
    [
        ((56, 56), 64, 4),
        ((25, 42), 512, 4),
        ((50, 84), 256, 16),
        ((14, 14), 512, 4),
        ((8, 8), 4, 1),
    ],
)
def test_the_number_of_boxes_is_a_multiple_of_four_unless_they_are_tiny(size, channels, boxes):
    g = geometry(1, channels, *size)
    costs = Costs(image=0, fixed=0, panel_position=0, box_position=1)
    cut = choose_tiling(g, 36 * channels, costs, None)
    assert len(cut.boxes(g, slice(0, 1))) == boxes
