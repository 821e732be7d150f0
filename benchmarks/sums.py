"""Times deformable attention and DCNv3 on a CPU, compared with compositions of torch's grid_sample.

    pip install torch
    python benchmarks/sums.py --threads 2 --json benchmarks/results/MACHINE-DATE-sums.json

Without a GPU, mmcv, transformers and InternImage compute these operators with such compositions.
Both contestants get the same float32 arrays and the same number of threads, and take turns as in
``cudeform_bench``. cudeform is called below its public functions, as adapters call it. The results
of every call are compared first: outputs and gradients must agree to 1e-4 of the largest element.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np
import torch
from torch.nn.functional import grid_sample

from cudeform import cpu
from cudeform.arrays import Gradients, Operands
from cudeform.commands.machine import Machine
from cudeform.options import Options
from cudeform.sums_geometry import Level, ScaledGrid, SumGeometry
from cudeform_bench.cpu.timing import TOLERANCE, largest_error, time_in_turns

Arrays = dict[str, Any]
Sizes = tuple[tuple[int, int], ...]

GRID = ScaledGrid((3, 3), (1, 1), (1, 1), (1, 1), 1.0, remove_center=False)
DETR: Sizes = ((100, 167), (50, 84), (25, 42), (13, 21))
OURS, PEER = "cudeform", "grid_sample"


@dataclass(frozen=True)
class Config:
    """A call to time.

    Attributes:
        name: its name.
        sizes: sizes (height, width) of the levels; of a DCNv3, of its image.
        queries: number of queries of an attention; 0 for a DCNv3.
        groups, channels: groups or heads, and the channels of each.
        points: samples of a query, head and level.
    """

    name: str
    sizes: Sizes
    queries: int
    groups: int
    channels: int
    points: int = 4

    def geometry(self) -> SumGeometry:
        """The sizes for the engine."""
        first, levels = 0, []
        for height, width in self.sizes:
            levels.append(Level(first, height, width, self.points if self.queries else GRID.taps))
            first += height * width
        out, grid = ((self.queries, 1), None) if self.queries else (self.sizes[0], GRID)
        return SumGeometry(1, self.groups, self.channels, out, tuple(levels), grid)


CONFIGS = (
    Config("E3", DETR, 300, 8, 32),
    Config("R1", ((80, 80), (40, 40), (20, 20)), 300, 8, 32),
    Config("E1/8", DETR, 2778, 8, 32),
    Config("D5/8", ((100, 80),), 0, 8, 16),
    Config("DCNv3-56", ((56, 56),), 0, 4, 16),
)


def problem(config: Config) -> Arrays:
    """Arrays in the canonical form of ``sums_geometry``, from a fixed seed.

    Samples of an attention lie around a random point of each query, those of a DCNv3 around its
    grid, with a standard deviation of two pixels. Fractions of coordinates keep away from 0 and 1,
    where rounding would choose one of two different slopes.
    """
    g, rng = config.geometry(), np.random.default_rng(20)
    shape = (1, *g.out, g.groups, g.taps)
    pixels = rng.normal(0, 2, (*shape, 2))
    if g.grid is None:
        sizes = np.array([(level.width, level.height) for level in g.levels])
        sizes = np.repeat(sizes, config.points, axis=0)
        pixels += rng.random((1, *g.out, 1, 1, 2)) * sizes
    pixels = np.floor(pixels) + 0.05 + 0.9 * rng.random(pixels.shape)
    image = (g.pixels, 1) if g.grid is None else config.sizes[0]
    return {
        "input": rng.standard_normal((1, *image, g.groups, g.channels), np.float32),
        "offset": ((pixels + 0.5) / sizes if g.grid is None else pixels).astype(np.float32),
        "mask": rng.random(shape, np.float32),
        "grad_output": rng.standard_normal((1, *g.out, g.groups, g.channels), np.float32),
    }


def cudeform_calls(config: Config, arrays: Arrays, threads: int) -> dict[str, Callable[[], Arrays]]:
    """The calls of cudeform by direction."""
    g, options = config.geometry(), Options(num_threads=threads, boundary_grad="zero")
    operands = Operands(arrays["input"], arrays["offset"], None, mask=arrays["mask"])

    def forward() -> Arrays:
        output = np.empty_like(arrays["grad_output"])
        cpu.sums_forward(operands, g, options, output)
        return {"output": output}

    def both() -> Arrays:
        output = forward()
        made = [np.empty_like(arrays[name]) for name in ("input", "offset", "mask")]
        grads = Gradients(made[0], made[1], mask=made[2])
        cpu.sums_backward(operands, g, options, arrays["grad_output"], grads)
        return output | _named(*made)

    return {"forward": forward, "forward and backward": both}


def torch_calls(config: Config, arrays: Arrays) -> dict[str, Callable[[], Arrays]]:
    """The calls of the composition by direction."""
    grad_output = torch.from_numpy(arrays["grad_output"])
    leaves = [torch.from_numpy(arrays[name]) for name in ("input", "offset", "mask")]
    compose = partial(attention if config.queries else dcnv3, config)

    def forward() -> Arrays:
        with torch.no_grad():
            return {"output": compose(*leaves).numpy()}

    def both() -> Arrays:
        operands = [leaf.detach().requires_grad_() for leaf in leaves]
        output = compose(*operands)
        grads = torch.autograd.grad(output, operands, grad_output)
        return {"output": output.detach().numpy()} | _named(*[grad.numpy() for grad in grads])

    return {"forward": forward, "forward and backward": both}


def _named(by_input: Any, by_offset: Any, by_mask: Any) -> Arrays:
    return {"grad_input": by_input, "grad_offset": by_offset, "grad_mask": by_mask}


def attention(config: Config, value: Any, locations: Any, weights: Any) -> Any:
    """Multi-scale deformable attention: a call of grid_sample for each level."""
    heads, channels, queries = config.groups, config.channels, config.queries
    levels = value.reshape(-1, heads, channels).split([h * w for h, w in config.sizes])
    grids = (2 * locations - 1).reshape(queries, heads, len(config.sizes), config.points, 2)
    samples = []
    for at, (size, level) in enumerate(zip(config.sizes, levels, strict=True)):
        image = level.permute(1, 2, 0).reshape(heads, channels, *size)
        grid = grids[:, :, at].transpose(0, 1)
        samples.append(grid_sample(image, grid, align_corners=False))
    by_head = weights.reshape(queries, heads, -1).transpose(0, 1)[:, None]
    output = (torch.stack(samples, dim=-2).flatten(-2) * by_head).sum(-1)
    return output.permute(2, 0, 1).reshape(1, queries, 1, heads, channels)


def dcnv3(config: Config, image: Any, offset: Any, mask: Any) -> Any:
    """DCNv3 with a 3x3 kernel: a call of grid_sample."""
    (height, width), groups, channels = config.sizes[0], config.groups, config.channels
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    tap_x, tap_y = torch.meshgrid(torch.arange(3) - 1, torch.arange(3) - 1, indexing="ij")
    positions = torch.stack([x, y], dim=-1)[:, :, None, None]
    at = positions + torch.stack([tap_x, tap_y], dim=-1).reshape(9, 2) + offset[0]
    grid = (2 * at + 1) / torch.tensor([width, height]) - 1
    grid = grid.reshape(height * width, groups, 9, 2).transpose(0, 1)
    channels_first = image[0].permute(2, 3, 0, 1)
    samples = grid_sample(channels_first, grid, align_corners=False)
    by_group = mask.reshape(height * width, groups, 9).transpose(0, 1)[:, None]
    output = (samples * by_group).sum(-1)
    return output.permute(2, 0, 1).reshape(1, height, width, groups, channels)


def measure(config: Config, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Check and time a configuration in both directions.

    Raises:
        SystemExit: the contestants disagree.
    """
    arrays = problem(config)
    ours, peer = cudeform_calls(config, arrays, threads), torch_calls(config, arrays)
    rows = []
    for direction, call in ours.items():
        error = largest_error(call(), peer[direction]())
        if not error <= TOLERANCE:
            raise SystemExit(f"{config.name}: the results differ by {error:.2g}; not timed")
        samples = time_in_turns({OURS: call, PEER: peer[direction]}, seconds)
        milliseconds = {name: 1e3 * median(times) for name, times in samples.items()}
        row = {
            "config": asdict(config),
            "direction": direction,
            "samples_ms": {name: [1e3 * t for t in times] for name, times in samples.items()},
            "median_ms": milliseconds,
            "ratio": milliseconds[PEER] / milliseconds[OURS],
            "ratio_of_fastest": min(samples[PEER]) / min(samples[OURS]),
            "error": error,
        }
        times = "".join(f"{each:10.2f}" for each in milliseconds.values())
        print(
            f"{config.name:10}{direction:22}{times}{row['ratio']:8.2f}x{row['ratio_of_fastest']:8.2f}x",
            flush=True,
        )
        rows.append(row)
    return rows


def main() -> None:
    """Print a table; write all samples as JSON if a file is named."""
    parser = argparse.ArgumentParser(description="attention and DCNv3 on a CPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each line of the table")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'':32}{OURS + ' ms':>10}{PEER:>12}  ratio  of the fastest samples")
    rows = [
        row for config in CONFIGS for row in measure(config, arguments.threads, arguments.seconds)
    ]
    for direction in ("forward", "forward and backward"):
        of_direction = [row for row in rows if row["direction"] == direction]
        for kind in ("ratio", "ratio_of_fastest"):
            ratios = [row[kind] for row in of_direction]
            mean, least = geometric_mean(ratios), min(ratios)
            print(f"{direction}, {kind}: geometric mean {mean:.2f}x, least {least:.2f}x")
    if arguments.json:
        made = {
            "command": shlex.join(["python", *sys.argv]),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": arguments.threads,
            "machine": asdict(Machine.here()),
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(made, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
