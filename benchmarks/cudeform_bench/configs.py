"""The named calls of the benchmark, and their arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cudeform_bench.convolutions import Convolution
from cudeform_bench.sums import Sum

Array = NDArray[Any]
Config = Convolution | Sum

SEED = 20

# The CPU's set: the four stages of a ResNet-50 and the alignment module of EDVR-M.
CPU = (
    Convolution("r50-c2", 1, 64, (56, 56), 64),
    Convolution("r50-c3", 1, 128, (100, 168), 128),
    Convolution("r50-c4", 1, 256, (50, 84), 256),
    Convolution("r50-c5", 1, 512, (25, 42), 512),
    Convolution("edvr", 1, 64, (180, 320), 64, offset_groups=8),
)

# The GPU's set. A5 and B1 have the shapes of r50-c4 and edvr.
GPU = (
    Convolution("A1", 2, 128, (100, 168), 128),
    Convolution("A2", 2, 128, (200, 336), 128, stride=2),
    Convolution("A3", 2, 256, (50, 84), 256),
    Convolution("A4", 2, 512, (25, 42), 512),
    Convolution("A5", 1, 256, (50, 84), 256),
    Convolution("A6", 8, 128, (100, 168), 128),
    Convolution("B1", 1, 64, (180, 320), 64, offset_groups=8),
    Convolution("B2", 1, 128, (180, 320), 128, offset_groups=8),
    Convolution("B3", 32, 64, (64, 64), 64, offset_groups=8),
    Convolution("B4", 1, 128, (180, 320), 64, offset_groups=16),
    Convolution("C1", 32, 64, (128, 128), 64),
    Convolution("C2", 1, 64, (64, 64), 64),
    Convolution("C3", 1, 64, (64, 64), 256, kernel=7),
    Convolution("C4", 16, 512, (25, 42), 512, groups=512),
)

# The operators other than deform_conv2d: audio, volumes and videos, upsampling.
OPERATORS_GPU = (
    Convolution("L1", 16, 256, (4096,), 256),
    Convolution("V1", 1, 32, (64, 64, 64), 32),
    Convolution("V2", 2, 16, (96, 96, 96), 16),
    Convolution("V3", 1, 64, (7, 128, 128), 64),
    Convolution("V4", 1, 64, (16, 56, 56), 64),
    Convolution("T1", 4, 256, (32, 32), 128, kernel=4, stride=2, transposed=True),
    Convolution("T2", 1, 64, (90, 160), 64, kernel=4, stride=2, transposed=True),
)

# Parts of them for a CPU.
OPERATORS_CPU = (
    Convolution("L1/16", 1, 256, (4096,), 256),
    Convolution("V4/8", 1, 64, (4, 28, 28), 64),
    Convolution("T1/4", 1, 256, (32, 32), 128, kernel=4, stride=2, transposed=True),
)

# Levels of Deformable DETR on an image of 800x1333, and of RT-DETR on one of 640x640.
DETR = ((100, 167), (50, 84), (25, 42), (13, 21))
RT_DETR = ((80, 80), (40, 40), (20, 20))

# The sums: encoder and decoder of Deformable DETR, decoder of RT-DETR, four stages of InternImage
# on 64 images, and one on a large image.
SUMS_GPU = (
    Sum("E1", "ms_deform_attn", 1, DETR, 8, 32, queries=22223),
    Sum("E2", "ms_deform_attn", 4, DETR, 8, 32, queries=22223),
    Sum("E3", "ms_deform_attn", 1, DETR, 8, 32, queries=300),
    Sum("R1", "ms_deform_attn", 1, RT_DETR, 8, 32, queries=300),
    Sum("R8", "ms_deform_attn", 8, RT_DETR, 8, 32, queries=300),
    Sum("D1", "dcnv3", 64, ((56, 56),), 8, 16),
    Sum("D2", "dcnv3", 64, ((28, 28),), 16, 16),
    Sum("D3", "dcnv3", 64, ((14, 14),), 32, 16),
    Sum("D4", "dcnv3", 64, ((7, 7),), 64, 16),
    Sum("D5", "dcnv3", 1, ((200, 320),), 8, 16),
    Sum("D1-v4", "dcnv4", 64, ((56, 56),), 8, 16),
    Sum("D5-v4", "dcnv4", 1, ((200, 320),), 8, 16),
)

# The small ones of them, and parts of the others, for a CPU.
SUMS_CPU = (
    *(config for config in SUMS_GPU if config.name in ("E3", "R1")),
    Sum("E1/8", "ms_deform_attn", 1, DETR, 8, 32, queries=2778),
    Sum("D5/8", "dcnv3", 1, ((100, 80),), 8, 16),
    Sum("DCNv3-56", "dcnv3", 1, ((56, 56),), 4, 16),
    Sum("D5/8-v4", "dcnv4", 1, ((100, 80),), 8, 16),
)

# For a trial of the benchmark itself. These are too small for conclusions about speed.
QUICK: tuple[Config, ...] = (
    Convolution("small", 1, 32, (28, 28), 32),
    Convolution("small-groups", 2, 32, (14, 14), 64, stride=2, groups=2, offset_groups=4),
    Convolution("small-1d", 2, 16, (50,), 8, offset_groups=2),
    Convolution("small-3d", 1, 8, (4, 8, 9), 8, groups=2),
    Convolution("small-transposed", 1, 8, (7, 8), 4, kernel=4, stride=2, groups=2, transposed=True),
    Sum("small-attention", "ms_deform_attn", 2, ((5, 7), (3, 4)), 2, 8, queries=11, points=3),
    Sum("small-dcnv3", "dcnv3", 2, ((7, 6),), 2, 4),
    Sum("small-dcnv4", "dcnv4", 2, ((7, 6),), 2, 4),
)

ALL: tuple[Config, ...] = tuple(
    dict.fromkeys(CPU + GPU + OPERATORS_CPU + OPERATORS_GPU + SUMS_CPU + SUMS_GPU)
)

SETS: dict[str, tuple[Config, ...]] = {
    "cpu": CPU,
    "gpu": GPU,
    "operators-cpu": OPERATORS_CPU,
    "operators-gpu": OPERATORS_GPU,
    "sums-cpu": SUMS_CPU,
    "sums-gpu": SUMS_GPU,
    "quick": QUICK,
    "all": ALL,
}


def named(name: str) -> tuple[Config, ...]:
    """The configuration, or the set of configurations, with this name.

    Raises:
        ValueError: no configuration or set has this name.
    """
    one = {config.name: (config,) for configs in SETS.values() for config in configs}
    known = SETS | one
    if name not in known:
        raise ValueError(f"there is no configuration {name!r}; there are {', '.join(known)}")
    return known[name]


def of_fields(fields: Mapping[str, Any]) -> Config:
    """A configuration from its fields as JSON has them.

    Raises:
        KeyError, TypeError: they are not the fields of a configuration.
    """
    if "sizes" in fields:
        return Sum(**{**fields, "sizes": tuple(map(tuple, fields["sizes"]))})
    return Convolution(**{**fields, "size": tuple(fields["size"])})


@dataclass(frozen=True)
class Problem:
    """A configuration and its arrays.

    Attributes:
        config: the configuration.
        operands: the arguments of the operator that are arrays, by name.
        grad_output: a gradient of the output.
    """

    config: Config
    operands: dict[str, Array]
    grad_output: Array

    @classmethod
    def of(cls, config: Config) -> Problem:
        """The arrays of a configuration in float32, from a fixed seed."""
        rng = np.random.default_rng(SEED)
        operands = config.operands(rng)
        return cls(config, operands, rng.standard_normal(config.output_shape, np.float32))

    def astype(self, dtype: DTypeLike) -> Problem:
        """The same values in another dtype."""
        operands = {name: array.astype(dtype) for name, array in self.operands.items()}
        return replace(self, operands=operands, grad_output=self.grad_output.astype(dtype))
