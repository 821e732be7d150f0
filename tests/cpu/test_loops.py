"""Loops in isolation: parts of vectors, transposition, coordinates at the limits of integers."""

from typing import Any

import numpy as np
import pytest

import cudeform
from cudeform.cpu.loops.jit import loop
from cudeform.cpu.loops.transposition import transpose
from cudeform.cpu.loops.vectors import (
    VECTOR,
    load_vector,
    pointer_to,
    store_lane_sums,
    store_vector,
)

DTYPES = ["float32", "float64"]


@loop
def copy(source: Any, target: Any, count: Any) -> None:
    source, target = pointer_to(source), pointer_to(target)
    store_vector(target, 1, count, load_vector(source, 0, count))


@loop
def add_lanes(source: Any, target: Any) -> None:
    source, target = pointer_to(source), pointer_to(target)
    vectors = (
        load_vector(source, 0, VECTOR),
        load_vector(source, VECTOR, VECTOR),
        load_vector(source, 2 * VECTOR, VECTOR),
        load_vector(source, 3 * VECTOR, VECTOR),
    )
    store_lane_sums(target, 1, vectors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", range(VECTOR + 1))
def test_a_part_of_a_vector_touches_so_many_elements(dtype: str, count: int) -> None:
    source = np.arange(1, count + 1).astype(dtype)  # and nothing behind it
    target = np.zeros(VECTOR + 2, dtype)
    copy(source, target, count)
    np.testing.assert_array_equal(target[1 : count + 1], source)
    assert not target[0]
    assert not target[count + 1 :].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_are_added_up(dtype: str) -> None:
    source = np.arange(4 * VECTOR).astype(dtype) ** 2
    target = np.zeros(6, dtype)
    add_lanes(source, target)
    np.testing.assert_array_equal(target, [0, *source.reshape(4, VECTOR).sum(axis=1), 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("cols", [1, 8, 13, 16])
def test_transposition(dtype: str, rows: int, cols: int) -> None:
    wide = np.arange((rows + 1) * (cols + 3)).astype(dtype).reshape(rows + 1, cols + 3)
    target = np.full((cols + 1, rows + 2), -1, dtype)
    transpose(wide.ravel(), cols + 4, cols + 3, target.ravel(), 1, rows + 2, rows, cols)
    np.testing.assert_array_equal(target[:cols, 1 : rows + 1], wide[1:, 1 : cols + 1].T)
    assert (target == -1).sum() == target.size - rows * cols


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "displacement",
    [2.0**31, -(2.0**31), 2147483520.0, 2.0**32, -(2.0**32) - 4096, 2.0**62, 1e30, -1e30],
)
def test_displacements_beyond_integers_are_out_of_range(dtype: str, displacement: float) -> None:
    image, weight = np.ones((1, 2, 3, 3), dtype), np.ones((1, 2, 1, 1), dtype)
    offset = np.full((1, 2, 3, 3), displacement, dtype)
    output = cudeform.deform_conv2d(image, offset, weight)
    assert not output.any()
    grads = cudeform.deform_conv2d_backward(output + 1, image, offset, weight)
    assert not any(grad.any() for grad in (grads.input, grads.offset, grads.weight))


def test_the_last_pixel_of_a_long_image_is_reached_from_afar() -> None:
    width = 2**24 + 3  # float32 does not have all whole numbers up to here
    image = np.zeros((1, 1, 1, width), np.float32)
    image[..., -1] = 7
    offset = np.zeros((1, 2, 1, 1), np.float32)
    offset[:, 1] = 2**24
    weight = np.ones((1, 1, 1, 1), np.float32)
    far = {"stride": (1, width), "padding": ((0, 0), (0, 0))}
    assert cudeform.deform_conv2d(image[..., 2:], offset, weight, **far).item() == 7
