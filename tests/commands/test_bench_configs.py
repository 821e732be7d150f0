"""Configurations of the benchmark: their sizes, arrays and offsets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cudeform_bench.configs import ALL, CPU, GPU, QUICK, SETS, Config, Problem, named, of_fields
from cudeform_bench.convolutions import OFFSETS, Convolution
from cudeform_bench.cpu.contestants import cudeform_calls
from cudeform_bench.gpu.forced import geometry
from cudeform_bench.sums import DEVIATIONS, Sum

SMALL = QUICK[0]
CONVOLUTIONS = [config for config in ALL + QUICK if isinstance(config, Convolution)]
SUMS = [config for config in ALL + QUICK if isinstance(config, Sum)]
README = Path(__file__).resolve().parents[2] / "benchmarks" / "README.md"

# 2 * positions * O * taps*C/groups, computed by hand.
GFLOP = {
    "A1": 9.91, "A2": 9.91, "A3": 9.91, "A4": 9.91, "A5": 4.95, "A6": 39.64, "B1": 4.25,
    "B2": 16.99, "B3": 9.66, "B4": 8.49, "C1": 38.65, "C2": 0.30, "C3": 6.58, "C4": 0.15,
    "L1": 25.77, "V1": 14.50, "V2": 24.46, "V3": 25.37, "V4": 11.10, "T1": 4.29, "T2": 1.89,
}  # fmt: skip


def test_names() -> None:
    assert named("A1") == (GPU[0],)
    assert named("cpu") == CPU
    assert named("all") == ALL
    assert set(CPU + GPU) < set(ALL)
    names = [config.name for config in ALL + QUICK]
    assert len(set(names)) == len(names)


def test_sizes_of_the_matrix_products() -> None:
    for name, gflop in GFLOP.items():
        (config,) = named(name)
        assert config.gemm_flop / 1e9 == pytest.approx(gflop, abs=0.006)


@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
def test_arrays_fit_together_and_are_the_same_every_time(config: Config) -> None:
    first, second = Problem.of(config), Problem.of(config)
    double = first.astype(np.float64)
    for name, array in first.operands.items():
        assert np.array_equal(array, second.operands[name])
        assert array.dtype == np.float32
        assert double.operands[name].dtype == np.float64
    assert np.array_equal(first.grad_output, second.grad_output)
    results = cudeform_calls(first, 1)["both"]()
    assert results["output"].shape == first.grad_output.shape
    assert set(results) == {"output", *(f"grad_{name}" for name in first.operands)}


@pytest.mark.parametrize("config", CONVOLUTIONS, ids=lambda config: config.name)
def test_the_sizes_of_a_configuration_are_those_of_its_operator(config: Convolution) -> None:
    g = geometry(config)
    assert (g.size, g.out) == (config.image_size, config.position_size)
    if config.transposed:
        assert config.out_size == tuple(config.stride * size for size in config.size)
    elif config.stride == 1:
        assert config.out_size == config.size


def test_a_configuration_comes_back_from_json() -> None:
    for config in QUICK:
        assert of_fields(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("offsets", OFFSETS)
def test_no_sample_falls_on_a_pixel_unless_all_do(offsets: str) -> None:
    for config in CONVOLUTIONS[-5:]:
        offset = Problem.of(replace(config, offsets=offsets)).operands["offset"]
        assert ((offset * 512) % 2 == (0 if offsets == "zero" else 1)).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size", [(20,), (12, 20), (6, 12, 20)])
def test_uniform_offsets_stay_in_the_image_and_outside_ones_do_not(
    size: tuple[int, ...], transposed: bool
) -> None:
    kernel = 4 if transposed else 5
    config = Convolution(
        "strided", 2, 4, size, 4, kernel, stride=2, offsets="uniform", transposed=transposed
    )
    for axis, length in enumerate(config.image_size):
        inside = coordinates(config, axis)
        assert ((inside > -0.01) & (inside < length - 0.99)).all()
        assert inside.std() > length / 5
        assert (coordinates(replace(config, offsets="outside"), axis) > length).all()


def coordinates(config: Convolution, axis: int) -> Any:
    """Coordinates of samples along an axis, from the definition: (N, OG, *kernel, *positions)."""
    kernel = [config.kernel] * config.axes
    offset = Problem.of(config).operands["offset"]
    pairs = offset.reshape(config.batch, -1, *kernel, config.axes, *config.position_size)
    grid = np.ogrid[tuple(slice(n) for n in (*kernel, *config.position_size))]
    tap, position = grid[axis], grid[config.axes + axis]
    displacement = pairs[(slice(None),) * (2 + config.axes) + (axis,)]
    return position * config.stride - config.padding + tap + displacement


def test_the_page_on_benchmarks_lists_every_configuration_and_distribution() -> None:
    page = README.read_text(encoding="utf-8")
    for config in CONVOLUTIONS:
        assert f"| {config.name} | `{config.shape}` | {config.gemm_flop / 1e9:.2f} |" in page
    for config in SUMS:
        samples = config.groups * config.samples / 1e6
        assert f"| {config.name} | `{config.shape}` | {samples:.2f} |" in page
    assert all(name in page for name in (*OFFSETS, *SETS))


@pytest.mark.parametrize("offsets", DEVIATIONS)
@pytest.mark.parametrize("config", SUMS[-3:], ids=lambda config: config.name)
def test_samples_of_a_sum_lie_between_pixels(config: Sum, offsets: str) -> None:
    for height_width, coordinate in sampled(replace(config, offsets=offsets)):
        fraction = coordinate % 1
        assert (fraction > 0.001).all()
        assert (fraction < 0.999).all()
        if offsets == "outside":
            assert (coordinate > np.array(height_width)[::-1]).all()
        else:
            assert 0.5 < coordinate.std() < 12


def sampled(config: Sum) -> list[tuple[tuple[int, int], Any]]:
    """For each level, its size and the coordinates (x, y) in pixels, without grid and taps."""
    operands = Problem.of(config).operands
    if config.is_attention:
        levels = enumerate(config.sizes)
        locations = operands["sampling_locations"]
        return [(hw, locations[:, :, :, at] * np.array(hw)[::-1] - 0.5) for at, hw in levels]
    if config.operator == "dcnv3":
        pairs = operands["offset"]
    else:
        rows = operands["offset_mask"]
        pairs = rows[..., : 27 * config.groups].reshape(-1, 27)[:, :18]
    return [(config.sizes[0], pairs.reshape(-1, 2))]


def test_an_encoder_has_its_pixels_as_queries() -> None:
    levels = ((3, 4), (2, 2))
    config = Sum("encoder", "ms_deform_attn", 1, levels, 1, 4, queries=16, offsets="normal-1")
    locations = Problem.of(config).operands["sampling_locations"]
    centers = [
        ((x + 0.5) / w, (y + 0.5) / h) for h, w in levels for y in range(h) for x in range(w)
    ]
    assert abs(locations[0, :, 0, 0].mean(1) - centers).max() < 0.6  # a pixel is 1/4
    assert np.corrcoef(locations[0, :, 0, 0, :, 0].mean(1), [x for x, _ in centers])[0, 1] > 0.5
