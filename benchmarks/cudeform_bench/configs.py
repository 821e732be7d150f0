"""The named convolutions of the benchmark, and their arrays.

The distribution of the offsets is part of a configuration: it determines which memory is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

SEED = 20


@dataclass(frozen=True)
class Config:
    """A convolution to time, with mask and bias. Its padding keeps the image size at stride 1.

    Attributes:
        name: its name for ``--config``.
        batch, channels, height, width: sizes of the input.
        out_channels: number of output channels.
        kernel: height and width of the kernel, both odd.
        stride: vertical and horizontal stride.
        groups: groups of the weight.
        offset_groups: number of offset groups.
        offsets: distribution of the offsets, a name in ``OFFSETS``.
    """

    name: str
    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    offset_groups: int = 1
    offsets: str = "normal-2"

    @property
    def padding(self) -> int:
        """Padding on each side, vertical and horizontal."""
        return self.kernel // 2

    @property
    def out_height(self) -> int:
        """Number of rows of the output."""
        return (self.height - 1) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Number of columns of the output."""
        return (self.width - 1) // self.stride + 1

    @property
    def taps(self) -> int:
        """Number of taps of the kernel."""
        return self.kernel**2

    @property
    def gemm_flop(self) -> int:
        """Additions and multiplications of the forward's matrix product, without sampling."""
        positions = self.batch * self.out_height * self.out_width
        return 2 * positions * self.out_channels * self.taps * self.channels // self.groups

    @property
    def shape(self) -> str:
        """Sizes as ``2x128x200x336->128 3x3 s2 g4 og8``: stride, groups, offset groups if not 1."""
        sizes = f"{self.batch}x{self.channels}x{self.height}x{self.width}->{self.out_channels}"
        extras = {"s": self.stride, "g": self.groups, "og": self.offset_groups}
        shown = [f"{letter}{number}" for letter, number in extras.items() if number > 1]
        return " ".join([sizes, f"{self.kernel}x{self.kernel}", *shown])


# The CPU's set: the four stages of a ResNet-50 and the alignment module of EDVR-M.
CPU = (
    Config("r50-c2", 1, 64, 56, 56, 64),
    Config("r50-c3", 1, 128, 100, 168, 128),
    Config("r50-c4", 1, 256, 50, 84, 256),
    Config("r50-c5", 1, 512, 25, 42, 512),
    Config("edvr", 1, 64, 180, 320, 64, offset_groups=8),
)

# The GPU's set. A5 and B1 have the shapes of r50-c4 and edvr.
GPU = (
    Config("A1", 2, 128, 100, 168, 128),
    Config("A2", 2, 128, 200, 336, 128, stride=2),
    Config("A3", 2, 256, 50, 84, 256),
    Config("A4", 2, 512, 25, 42, 512),
    Config("A5", 1, 256, 50, 84, 256),
    Config("A6", 8, 128, 100, 168, 128),
    Config("B1", 1, 64, 180, 320, 64, offset_groups=8),
    Config("B2", 1, 128, 180, 320, 128, offset_groups=8),
    Config("B3", 32, 64, 64, 64, 64, offset_groups=8),
    Config("B4", 1, 128, 180, 320, 64, offset_groups=16),
    Config("C1", 32, 64, 128, 128, 64),
    Config("C2", 1, 64, 64, 64, 64),
    Config("C3", 1, 64, 64, 64, 256, kernel=7),
    Config("C4", 16, 512, 25, 42, 512, groups=512),
)

# For a trial of the benchmark itself. These are too small for conclusions about speed.
QUICK = (
    Config("small", 1, 32, 28, 28, 32),
    Config("small-groups", 2, 32, 14, 14, 64, stride=2, groups=2, offset_groups=4),
)

SETS = {"cpu": CPU, "gpu": GPU, "quick": QUICK, "all": CPU + GPU}


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


@dataclass(frozen=True)
class Problem:
    """A configuration and its arrays."""

    config: Config
    input: Array
    offset: Array
    weight: Array
    bias: Array
    mask: Array
    grad_output: Array

    @classmethod
    def of(cls, config: Config) -> Problem:
        """The arrays of a configuration in float32, from a fixed seed."""
        rng = np.random.default_rng(SEED)
        batch, out_channels, kernel = config.batch, config.out_channels, config.kernel
        group_channels = config.channels // config.groups
        out_size = (config.out_height, config.out_width)

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape, np.float32)

        weight = normal(out_channels, group_channels, kernel, kernel)
        return cls(
            config=config,
            input=normal(batch, config.channels, config.height, config.width),
            offset=_offset(rng, config),
            weight=weight / np.float32(np.sqrt(config.taps * group_channels)),
            bias=normal(out_channels),
            mask=rng.random((batch, config.offset_groups * config.taps, *out_size), np.float32),
            grad_output=normal(batch, out_channels, *out_size),
        )

    def astype(self, dtype: DTypeLike) -> Problem:
        """The same values in another dtype."""
        arrays = {name: value for name, value in vars(self).items() if name != "config"}
        return replace(self, **{name: array.astype(dtype) for name, array in arrays.items()})


def _offset(rng: np.random.Generator, config: Config) -> Array:
    """Offsets of a configuration, (N, 2*offset_groups*KH*KW, OH, OW), in float32.

    Every offset except 0 is an odd multiple of 1/512. Its sum with an integer is exact in float32,
    so a float32 contestant samples at the same coordinates as the float64 reference. The sum is
    never an integer: at integers the derivative is discontinuous, and rounding would select a side.
    """
    pixels = OFFSETS[config.offsets](rng, config)
    rounded = np.where(pixels == 0, 0, (np.floor(pixels * 256) + 0.5) / 256)
    return rounded.astype(np.float32).reshape(config.batch, -1, *pixels.shape[-2:])


def _shape(config: Config) -> tuple[int, ...]:
    """(N, offset_groups, taps, 2, OH, OW); dy is the first of each pair."""
    groups, taps = config.offset_groups, config.taps
    return (config.batch, groups, taps, 2, config.out_height, config.out_width)


def _zero(rng: np.random.Generator, config: Config) -> Array:
    return np.zeros(_shape(config))


def _outside(rng: np.random.Generator, config: Config) -> Array:
    return np.full(_shape(config), 2.0 * max(config.height, config.width))


def _normal(deviation: float) -> Callable[[np.random.Generator, Config], Array]:
    return lambda rng, config: deviation * rng.standard_normal(_shape(config))


def _uniform(rng: np.random.Generator, config: Config) -> Array:
    taps = np.arange(config.taps)[:, None, None]
    y = np.arange(config.out_height)[:, None] * config.stride + taps // config.kernel
    x = np.arange(config.out_width) * config.stride + taps % config.kernel
    pixels = rng.random(_shape(config))
    pixels[:, :, :, 0] = pixels[:, :, :, 0] * (config.height - 1) - (y - config.padding)
    pixels[:, :, :, 1] = pixels[:, :, :, 1] * (config.width - 1) - (x - config.padding)
    return pixels


def _flow(rng: np.random.Generator, config: Config) -> Array:
    """A wave along the image with an amplitude of 10 pixels, plus normal-1 noise for each tap."""
    vertical, horizontal, phase = rng.random((3, config.batch, config.offset_groups, 1, 2, 1, 1))
    y = np.linspace(0, 1, config.out_height)[:, None]
    x = np.linspace(0, 1, config.out_width)
    wave = np.sin(2 * np.pi * (vertical * y + horizontal * x + phase))
    pixels: Array = 10 * wave + rng.standard_normal(_shape(config))
    return pixels


# Distributions of the offsets, in pixels.
OFFSETS: dict[str, Callable[[np.random.Generator, Config], Array]] = {
    "zero": _zero,  # an ordinary convolution
    "normal-1": _normal(1),  # normal distribution with this standard deviation
    "normal-2": _normal(2),
    "normal-8": _normal(8),
    "uniform": _uniform,  # samples are uniformly distributed over the image
    "flow": _flow,  # smooth, as in video alignment
    "outside": _outside,  # all samples are outside the image
}
