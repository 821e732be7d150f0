"""The CPU engine counts rows of its table in 32 bits while that is enough, and not a row longer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import build
from checks import computed

from cudeform.cpu import sampling
from cudeform.cpu.sampling import index_dtype, samples
from cudeform.cpu.tiles import Tile
from cudeform.geometry import Geometry, geometry_of

CASE = build("int64", channels=6, groups=2, offset_groups=3, out_channels=4, offset="large")


def tile(images: slice, rows: int = 1, cols: int = 1) -> Tile:
    return Tile(images, slice(0, rows), slice(0, cols))


def sizes(height: int, width: int, offset_groups: int, batch: int = 1, taps: int = 1) -> Geometry:
    shapes = (batch, 0, height, width), (batch, 2 * offset_groups * taps, height, width - taps + 1)
    return geometry_of(*shapes, (0, 0, 1, taps))


@pytest.mark.parametrize("offset_groups", [1, 2, 5])
@pytest.mark.parametrize("size", [(3, 4), (1, 7), (6, 1)])
def test_the_largest_row_is_the_one_that_is_reckoned_with(
    size: tuple[int, int], offset_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = sizes(*size, offset_groups, batch=3)
    offset = np.zeros(g.offset_shape, np.float32)  # so the last sample lies in the last pixel
    at = samples(g, tile(slice(1, 3), *size), 1, offset, None, np.dtype(np.float32))
    largest = int((at.first[:, None] + at.steps).max())
    # Whatever 32 bits can hold, it is enough for exactly this row.
    monkeypatch.setattr(sampling, "LARGEST_INT32", largest)
    assert index_dtype(g, tile(slice(1, 3)), 1) == np.int32
    monkeypatch.setattr(sampling, "LARGEST_INT32", largest - 1)
    assert index_dtype(g, tile(slice(1, 3)), 1) == np.int64


@pytest.mark.parametrize(
    ("height", "width", "offset_groups", "kind"),
    [
        (1, 2**30 - 1, 1, np.int32),  # 2**30 - 2 + 2**30 = 2**31 - 2
        (1, 2**30, 1, np.int64),  # 2**30 - 1 + 2**30 + 1 = 2**31
        (2**31 - 3, 1, 1, np.int32),  # 2**31 - 4 + 2 = 2**31 - 2
        (2**31 - 2, 1, 1, np.int32),  # 2**31 - 1
        (2**31 - 1, 1, 1, np.int64),
        (2**15, 2**15 - 2, 2, np.int32),
        (2**15, 2**15 - 1, 2, np.int32),
        (2**15, 2**15, 2, np.int64),
        (2**14, 2**14, 8, np.int64),
    ],
)
def test_the_width_for_images_of_many_pixels(
    height: int, width: int, offset_groups: int, kind: Any
) -> None:
    assert index_dtype(sizes(height, width, offset_groups), tile(slice(0, 1)), 0) == kind


def test_images_before_those_on_the_table_do_not_count() -> None:
    g = sizes(2**14, 2**14, 1, batch=100)
    assert index_dtype(g, tile(slice(90, 97)), 90) == np.int32
    assert index_dtype(g, tile(slice(90, 97)), 89) == np.int64


def test_entries_of_the_matrix_count_too() -> None:
    g = sizes(2**10, 2**15, 2**10, taps=1)
    g = replace(g, in_h=1, in_w=1)
    few, many = tile(slice(0, 1), 2**9 - 1, 2**10), tile(slice(0, 1), 2**9, 2**10)
    assert index_dtype(g, few, 0) == np.int32
    assert index_dtype(g, many, 0) == np.int64


@pytest.mark.promise("large")
def test_64_bits_give_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = computed(**CASE.backward_arguments)
    monkeypatch.setattr(sampling, "LARGEST_INT32", -1)
    wide = computed(**CASE.backward_arguments)
    for name, array in narrow.items():
        assert array.tobytes() == wide[name].tobytes(), name
