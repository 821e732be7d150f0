"""The window of an owned tile: as large as fits, in the image, and none where none fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from cases import build
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_tiles import assert_right, launches

from cudeform.commands.bench_configs import GPU, Config
from cudeform.commands.bench_gpu_forced import geometry as geometry_of_config
from cudeform.gpu import owned_tiles
from cudeform.gpu.device_api.kernel_source import read
from cudeform.gpu.owned_tiles import AHEAD, MOST_SHARED_BYTES, Window, window_of


def test_the_sizes_of_three_by_three_taps() -> None:
    g = geometry_of_config(Config("a layer", 2, 128, 100, 168, 128))
    window = window_of(g, 4, 8)
    assert window == Window(32, 3, 17, 17, 96, 1, 4)
    assert window.shared_bytes == 17 * 17 * 32 * 4 + 2 * 96 * 32 == 43136


def test_what_does_not_fit_is_left_out() -> None:
    def of(itemsize: int, vector: int = 8, **changes: Any) -> tuple[int, int] | None:
        config = replace(Config("a layer", 2, 128, 100, 168, 128), **changes)
        window = window_of(geometry_of_config(config), itemsize, vector)
        return None if window is None else (window.lanes, window.reach)

    assert of(4) == (32, 3)
    assert of(8) == (32, 0)  # first reach
    assert of(4, kernel=7) == (32, 1)
    assert of(4, stride=2) == (32, 0)
    assert of(4, stride=3) == (16, 0)  # then channels
    assert of(4, kernel=27) == (8, 0)
    assert of(4, kernel=31) is None
    assert of(4, kernel=41, height=13, width=13) == (32, 3)  # the window is the image
    assert of(4, channels=40) == (24, 3)  # runs of like length
    assert of(4, channels=5, vector=1) == (5, 3)
    assert of(4, channels=0) is None


def test_windows_fit_and_lie_in_the_image() -> None:
    for config, itemsize in product(GPU, (4, 8)):
        g = geometry_of_config(config)
        vector = 2 if itemsize == 8 else 8
        window = window_of(g, itemsize, vector)
        assert window is not None
        assert window.shared_bytes <= MOST_SHARED_BYTES
        assert window.lanes % vector == 0
        assert window.pairs % AHEAD == 0
        assert (window.height, window.width) <= (g.in_h, g.in_w)
        most = {
            (c + window.lanes - 1) // run - c // run + 1
            for run in [g.channels // g.offset_groups]
            for c in range(0, g.channels - window.lanes + 1, window.lanes)
        }
        assert max(most) <= window.groups


def test_the_kernel_has_the_same_threads() -> None:
    text = read("deform_tiles.cu")
    assert f"WALKERS = {owned_tiles.WALKERS}, PLANNERS = {owned_tiles.PLANNERS};" in text
    assert f"AHEAD = {AHEAD};" in text


@needs_compiler
@pytest.mark.usefixtures("owned_tiles")
def test_without_room_for_a_window_global_memory_is_added_to() -> None:
    case = build("far apart", kernel=(2, 2), size=(75, 75), dilation=(70, 70), channels=16, batch=1)
    device = HostDevice()
    assert_right(device, case.cast("float32"))
    assert launches(device) == []
