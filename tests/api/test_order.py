"""The order of channels: dy before dx, taps row by row, offset groups outermost."""

from typing import Any

import numpy as np
import pytest
from checks import both

RAMP = np.arange(27.0).reshape(1, 3, 3, 3)
# Three offset groups of one tap: (0, -1), (0, 1), (-1, 0), the vertical displacement first.
LEFT_RIGHT_UP = np.array([0.0, -1.0, 0.0, 1.0, -1.0, 0.0]).reshape(1, 6, 1, 1)
SHIFTED = np.array(
    [
        [[0, 0, 1], [0, 3, 4], [0, 6, 7]],
        [[10, 11, 0], [13, 14, 0], [16, 17, 0]],
        [[0, 0, 0], [18, 19, 20], [21, 22, 23]],
    ]
)


@both
def test_dy_comes_before_dx(compute: Any) -> None:
    offset = np.broadcast_to(LEFT_RIGHT_UP, (1, 6, 3, 3))
    identity = np.eye(3).reshape(3, 3, 1, 1)
    output = compute(input=RAMP, offset=offset, weight=identity)["output"]
    np.testing.assert_array_equal(output[0], SHIFTED)


@both
def test_a_weight_that_sums_gives_the_sum_of_the_shifted_channels(compute: Any) -> None:
    offset = np.broadcast_to(LEFT_RIGHT_UP, (1, 6, 3, 3))
    output = compute(input=RAMP, offset=offset, weight=np.ones((1, 3, 1, 1)))["output"]
    np.testing.assert_array_equal(output[0, 0], SHIFTED.sum(axis=0))


@pytest.mark.parametrize("tap", range(6))
@both
def test_each_tap_has_its_own_pair_of_offset_channels(compute: Any, tap: int) -> None:
    image = np.arange(100.0).reshape(1, 1, 10, 10)
    one_hot = np.zeros((1, 1, 2, 3))
    one_hot.flat[tap] = 1
    offset = np.full((1, 12, 9, 8), 5.0)  # of the other taps: must not matter
    offset[:, 2 * tap], offset[:, 2 * tap + 1] = -2.0, -1.0
    row, col = divmod(tap, 3)
    padded = np.pad(image[0, 0], 2)
    wanted = padded[row : row + 9, col + 1 : col + 9]
    output = compute(input=image, offset=offset, weight=one_hot)["output"]
    np.testing.assert_array_equal(output[0, 0], wanted)


@pytest.mark.parametrize("tap", range(6))
@both
def test_each_tap_has_its_own_mask_channel(compute: Any, tap: int) -> None:
    mask = np.arange(2.0, 8.0).reshape(1, 6, 1, 1)
    one_hot = np.zeros((1, 1, 2, 3))
    one_hot.flat[tap] = 1
    image, offset = np.ones((1, 1, 2, 3)), np.zeros((1, 12, 1, 1))
    output = compute(input=image, offset=offset, weight=one_hot, mask=mask)["output"]
    assert output.item() == 2 + tap


@pytest.mark.parametrize("channel", range(6))
@both
def test_consecutive_channels_share_an_offset_group(compute: Any, channel: int) -> None:
    one_hot = np.zeros((1, 6, 1, 1))
    one_hot[0, channel] = 1
    offset = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 2.0]).reshape(1, 6, 1, 1)  # dx = group
    mask = np.array([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1)
    image = np.broadcast_to(np.array([1.0, 2.0, 3.0]), (1, 6, 1, 3))
    output = compute(input=image, offset=offset, weight=one_hot, stride=3, mask=mask)["output"]
    assert output.item() == [1.0, 1.0, 20.0, 20.0, 300.0, 300.0][channel]


@both
def test_groups_of_the_second_offset_group_begin_after_all_taps(compute: Any) -> None:
    offset = np.zeros((1, 2 * 2 * 4, 1, 1))
    offset[0, 2 * 4 + 1] = 1.0  # group 1, tap (0, 0), dx
    image = np.arange(18.0).reshape(1, 2, 3, 3)
    weight = np.zeros((1, 2, 2, 2))
    weight[0, :, 0, 0] = 1.0, 100.0
    output = compute(input=image, offset=offset, weight=weight, stride=2)["output"]
    assert output.item() == 0 + 100 * 10
