"""Configurations of the benchmark: their sizes, arrays and offsets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cudeform_bench.configs import CPU, GPU, OFFSETS, QUICK, Config, Problem, named
from cudeform_bench.cpu.contestants import ARGUMENTS, cudeform_calls

SMALL = QUICK[0]
README = Path(__file__).resolve().parents[2] / "benchmarks" / "README.md"

# 2 * N*OH*OW * O * KH*KW*C/groups, computed by hand.
GFLOP = {
    "A1": 9.91, "A2": 9.91, "A3": 9.91, "A4": 9.91, "A5": 4.95, "A6": 39.64, "B1": 4.25,
    "B2": 16.99, "B3": 9.66, "B4": 8.49, "C1": 38.65, "C2": 0.30, "C3": 6.58, "C4": 0.15,
}  # fmt: skip


def test_names() -> None:
    assert named("A1") == (GPU[0],)
    assert named("cpu") == CPU
    assert named("all") == CPU + GPU
    names = [config.name for config in CPU + GPU + QUICK]
    assert len(set(names)) == len(names)


def test_sizes_of_the_matrix_products() -> None:
    for config in GPU:
        assert config.gemm_flop / 1e9 == pytest.approx(GFLOP[config.name], abs=0.005)


@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
def test_arrays_fit_together_and_are_the_same_every_time(config: Config) -> None:
    first, second = Problem.of(config), Problem.of(config)
    for name in (*ARGUMENTS, "grad_output"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == np.float32
        assert getattr(first.astype(np.float64), name).dtype == np.float64
    results = cudeform_calls(first, 1)["both"]()
    assert results["output"].shape == first.grad_output.shape
    assert set(results) == {"output", *(f"grad_{name}" for name in ARGUMENTS)}


@pytest.mark.parametrize("offsets", OFFSETS)
def test_no_sample_falls_on_a_pixel_unless_all_do(offsets: str) -> None:
    offset = Problem.of(replace(SMALL, offsets=offsets)).offset
    assert ((offset * 512) % 2 == (0 if offsets == "zero" else 1)).all()


def test_uniform_offsets_stay_in_the_image_and_outside_ones_do_not() -> None:
    config = Config("strided", 2, 4, 12, 20, 4, kernel=5, stride=2, offsets="uniform")
    y, x = coordinates(config)
    assert ((y > -0.01) & (y < 11.01) & (x > -0.01) & (x < 19.01)).all()
    assert (y.std() > 3) & (x.std() > 5)
    y, x = coordinates(replace(config, offsets="outside"))
    assert ((y > 12) & (x > 20)).all()


def coordinates(config: Config) -> tuple[Any, Any]:
    """Coordinates of all samples, from the definition: two arrays (N, OG, KH, KW, OH, OW)."""
    offset = Problem.of(config).offset.reshape(
        config.batch, -1, config.kernel, config.kernel, 2, config.out_height, config.out_width
    )
    tap_y, tap_x, out_y, out_x = np.ogrid[
        : config.kernel, : config.kernel, : config.out_height, : config.out_width
    ]
    y = out_y * config.stride - config.padding + tap_y + offset[:, :, :, :, 0]
    x = out_x * config.stride - config.padding + tap_x + offset[:, :, :, :, 1]
    return y, x


def test_the_page_on_benchmarks_lists_every_configuration_and_distribution() -> None:
    page = README.read_text(encoding="utf-8")
    for config in CPU + GPU + QUICK:
        row = f"| {config.name} | `{config.shape}` | {config.gemm_flop / 1e9:.2f} |"
        assert row in page
    assert all(name in page for name in OFFSETS)
