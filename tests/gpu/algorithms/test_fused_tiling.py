"""The fused forward: which convolutions it supports, when it is profitable, and its tiles."""

from __future__ import annotations

from typing import Any

import pytest
from cases import build
from hostcuda import HostDevice
from support.gpu_engine import geometry

from cudeform.arrays import DeviceArray
from cudeform.gpu.algorithms import fused
from cudeform.gpu.algorithms.fused_tiling import tiling_for


def sizes(channels: int, out_channels: int, **more: Any) -> Any:
    return geometry(build("", channels=channels, out_channels=out_channels, **more))


@pytest.mark.parametrize(
    ("channels", "offset_groups", "dtype", "capability", "supported"),
    [
        *((16, 1, "float16", 80, True), (12, 1, "float16", 80, False)),
        *((12, 1, "float32", 80, True), (16, 1, "float64", 80, False)),
        *((16, 1, "bfloat16", 75, False), (64, 16, "float16", 90, False)),
        *((64, 16, "float32", 90, True), (0, 1, "float32", 90, False)),
    ],
)
def test_what_is_supported(
    channels: int, offset_groups: int, dtype: str, capability: int, supported: bool
) -> None:
    g = sizes(channels, 64, offset_groups=offset_groups)
    assert fused.supports(g, dtype, HostDevice(compute_capability=capability)) == supported


def test_64_bit_indices_are_not_supported() -> None:
    g, device = sizes(16, 64), HostDevice()
    near = DeviceArray(0, (2, 16, 4, 4), (256, 16, 4, 1), "float16")
    far = DeviceArray(0, (1, 16, 4, 4), (2**31, 16, 4, 1), "float16")
    assert fused.supports(g, "float16", device, [near])
    assert not fused.supports(g, "float16", device, [near, far])


@pytest.mark.parametrize(
    ("out_channels", "groups", "dtype", "profitable"),
    [
        *((31, 1, "float16", False), (32, 1, "float16", True), (96, 3, "float16", True)),
        *((1024, 1, "float16", True), (1025, 1, "float16", False)),
        *((512, 1, "float32", True), (513, 1, "float32", False), (48, 3, "float32", False)),
    ],
)
def test_when_it_is_profitable(
    out_channels: int, groups: int, dtype: str, profitable: bool
) -> None:
    g = sizes(48, out_channels, groups=groups)
    assert fused.is_profitable(g, dtype, HostDevice()) == profitable


@pytest.mark.parametrize(
    ("blocks", "multiprocessors", "m"),
    [
        (1, 132, 64),
        (132, 132, 64),
        (133, 132, 128),
        (264, 132, 128),
        (396, 132, 64),
        (397, 132, 128),
    ],
)
def test_the_height_keeps_all_multiprocessors_busy(
    blocks: int, multiprocessors: int, m: int
) -> None:
    """Low tiles, unless high ones, which read the weight less often, take no longer."""
    g = sizes(64, 64, batch=blocks, size=(10, 10))  # 8 by 8 positions
    assert tiling_for(g, "float16", 1, multiprocessors).tile.m == m


def test_tiles_are_as_wide_as_a_group() -> None:
    assert [tiling_for(sizes(64, n), "float16", 1, 1).tile.n for n in (32, 33, 128, 129, 600)] == [
        *(32, 64, 128, 256, 256)
    ]
    assert tiling_for(sizes(64, 600), "float32", 1, 1).tile.n == 128


def test_the_stages_of_a_small_convolution_are_split() -> None:
    g = sizes(512, 512, size=(8, 8))
    tiling = tiling_for(g, "float16", 1, 132)
    assert tiling.stages == 512 * 9 // 32
    assert tiling.split_stages(HostDevice(multiprocessors=132)) == tiling.stages // 8
    assert tiling.split_stages(HostDevice(multiprocessors=1)) == tiling.stages


@pytest.mark.parametrize(("capability", "splits"), [(86, 1), (90, 2)])
def test_shared_memory_limits_the_splits(capability: int, splits: int) -> None:
    g = sizes(256, 256, size=(10, 10))  # as many tiles as multiprocessors
    tiling = tiling_for(g, "float16", 1, g.batch)
    device = HostDevice(multiprocessors=g.batch, compute_capability=capability)
    assert tiling.split_stages(device) == tiling.stages // splits
