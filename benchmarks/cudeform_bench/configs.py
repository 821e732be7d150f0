"""The named calls of the benchmark, and their arrays.

The distribution of the offsets is part of a configuration: it determines which memory is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

SEED = 20


@dataclass(frozen=True)
class Config:
    """A deformable convolution to time, or a transposed one, with mask and bias.

    The padding of a convolution keeps the size of the image at stride 1. That of a transposed
    convolution multiplies the size by the stride.

    Attributes:
        name: its name for ``--config``.
        batch, channels: of the input.
        size: spatial sizes of the input, one per axis; their number selects the operator.
        out_channels: number of output channels.
        kernel: size of the kernel along every axis; odd, or even if the stride of a transposed
            convolution is even.
        stride: stride along every axis.
        groups: groups of the weight.
        offset_groups: number of offset groups.
        offsets: distribution of the offsets, a name in ``OFFSETS``.
        transposed: whether the convolution is transposed.
    """

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    out_channels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    offset_groups: int = 1
    offsets: str = "normal-2"
    transposed: bool = False

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Config:
        """A configuration from its fields as JSON has them."""
        return cls(**{**fields, "size": tuple(fields["size"])})

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def operator(self) -> str:
        """Name of the public function."""
        return f"deform_conv{'_transpose' if self.transposed else ''}{self.axes}d"

    @property
    def settings(self) -> dict[str, int]:
        """The arguments that are not arrays."""
        sizes = {"stride": self.stride, "padding": self.padding}
        return sizes | ({"groups": self.groups} if self.transposed else {})

    @property
    def padding(self) -> int:
        """Padding on each side of every axis."""
        return (self.kernel - (self.stride if self.transposed else 1)) // 2

    @property
    def out_size(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        if self.transposed:
            return tuple(self.stride * size for size in self.size)
        return tuple((size - 1) // self.stride + 1 for size in self.size)

    @property
    def position_size(self) -> tuple[int, ...]:
        """Spatial sizes of the array whose elements are positions, as offset and mask have them."""
        return self.size if self.transposed else self.out_size

    @property
    def image_size(self) -> tuple[int, ...]:
        """Spatial sizes of the image that samples are taken from, or added to."""
        return self.out_size if self.transposed else self.size

    @property
    def image_channels(self) -> int:
        """Channels of that image."""
        return self.out_channels if self.transposed else self.channels

    @property
    def positions(self) -> int:
        """Number of positions of the whole batch."""
        return self.batch * prod(self.position_size)

    @property
    def taps(self) -> int:
        """Number of taps of the kernel."""
        return prod([self.kernel] * self.axes)

    @property
    def samples(self) -> int:
        """Number of samples of one offset group: positions times taps."""
        return self.positions * self.taps

    @property
    def gemm_flop(self) -> int:
        """Additions and multiplications of the forward's matrix product, without sampling."""
        return 2 * self.samples * self.out_channels * self.channels // self.groups

    @property
    def scatter_direction(self) -> str:
        """The direction that adds to the corners of samples."""
        return "forward" if self.transposed else "backward"

    @property
    def shape(self) -> str:
        """Sizes as ``2x128x200x336->128 3x3 s2 g4 og8``: stride, groups, offset groups if not 1."""
        sizes = _product_sign(self.batch, self.channels, *self.size)
        extras = {"s": self.stride, "g": self.groups, "og": self.offset_groups}
        shown = [f"{letter}{number}" for letter, number in extras.items() if number > 1]
        kernel = _product_sign(*[self.kernel] * self.axes)
        last = ["transposed"] if self.transposed else []
        return " ".join([f"{sizes}->{self.out_channels}", kernel, *shown, *last])


def _product_sign(*sizes: int) -> str:
    return "x".join(map(str, sizes))


# The CPU's set: the four stages of a ResNet-50 and the alignment module of EDVR-M.
CPU = (
    Config("r50-c2", 1, 64, (56, 56), 64),
    Config("r50-c3", 1, 128, (100, 168), 128),
    Config("r50-c4", 1, 256, (50, 84), 256),
    Config("r50-c5", 1, 512, (25, 42), 512),
    Config("edvr", 1, 64, (180, 320), 64, offset_groups=8),
)

# The GPU's set. A5 and B1 have the shapes of r50-c4 and edvr.
GPU = (
    Config("A1", 2, 128, (100, 168), 128),
    Config("A2", 2, 128, (200, 336), 128, stride=2),
    Config("A3", 2, 256, (50, 84), 256),
    Config("A4", 2, 512, (25, 42), 512),
    Config("A5", 1, 256, (50, 84), 256),
    Config("A6", 8, 128, (100, 168), 128),
    Config("B1", 1, 64, (180, 320), 64, offset_groups=8),
    Config("B2", 1, 128, (180, 320), 128, offset_groups=8),
    Config("B3", 32, 64, (64, 64), 64, offset_groups=8),
    Config("B4", 1, 128, (180, 320), 64, offset_groups=16),
    Config("C1", 32, 64, (128, 128), 64),
    Config("C2", 1, 64, (64, 64), 64),
    Config("C3", 1, 64, (64, 64), 256, kernel=7),
    Config("C4", 16, 512, (25, 42), 512, groups=512),
)

# The operators other than deform_conv2d: audio, volumes and videos, upsampling.
OPERATORS_GPU = (
    Config("L1", 16, 256, (4096,), 256),
    Config("V1", 1, 32, (64, 64, 64), 32),
    Config("V2", 2, 16, (96, 96, 96), 16),
    Config("V3", 1, 64, (7, 128, 128), 64),
    Config("V4", 1, 64, (16, 56, 56), 64),
    Config("T1", 4, 256, (32, 32), 128, kernel=4, stride=2, transposed=True),
    Config("T2", 1, 64, (90, 160), 64, kernel=4, stride=2, transposed=True),
)

# Parts of them for a CPU.
OPERATORS_CPU = (
    Config("L1/16", 1, 256, (4096,), 256),
    Config("V4/8", 1, 64, (4, 28, 28), 64),
    Config("T1/4", 1, 256, (32, 32), 128, kernel=4, stride=2, transposed=True),
)

# For a trial of the benchmark itself. These are too small for conclusions about speed.
QUICK = (
    Config("small", 1, 32, (28, 28), 32),
    Config("small-groups", 2, 32, (14, 14), 64, stride=2, groups=2, offset_groups=4),
    Config("small-1d", 2, 16, (50,), 8, offset_groups=2),
    Config("small-3d", 1, 8, (4, 8, 9), 8, groups=2),
    Config("small-transposed", 1, 8, (7, 8), 4, kernel=4, stride=2, groups=2, transposed=True),
)

ALL = CPU + GPU + OPERATORS_CPU + OPERATORS_GPU

SETS = {
    "cpu": CPU,
    "gpu": GPU,
    "operators-cpu": OPERATORS_CPU,
    "operators-gpu": OPERATORS_GPU,
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
        batch, groups, taps = config.batch, config.groups, config.taps

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape, np.float32)

        rows = config.channels if config.transposed else config.out_channels
        weight = normal(rows, config.image_channels // groups, *[config.kernel] * config.axes)
        mask_shape = (batch, config.offset_groups * taps, *config.position_size)
        return cls(
            config=config,
            operands={
                "input": normal(batch, config.channels, *config.size),
                "offset": _offset(rng, config),
                "weight": weight / np.float32(np.sqrt(taps * config.channels // groups)),
                "bias": normal(config.out_channels),
                "mask": rng.random(mask_shape, np.float32),
            },
            grad_output=normal(batch, config.out_channels, *config.out_size),
        )

    def astype(self, dtype: DTypeLike) -> Problem:
        """The same values in another dtype."""
        operands = {name: array.astype(dtype) for name, array in self.operands.items()}
        return replace(self, operands=operands, grad_output=self.grad_output.astype(dtype))


def _offset(rng: np.random.Generator, config: Config) -> Array:
    """Offsets of a configuration, (N, axes*offset_groups*taps, *position_size), in float32.

    Every offset except 0 is an odd multiple of 1/512. Its sum with an integer is exact in float32,
    so a float32 contestant samples at the same coordinates as the float64 reference. The sum is
    never an integer: at integers the derivative is discontinuous, and rounding would select a side.
    """
    pixels = OFFSETS[config.offsets](rng, config)
    rounded = np.where(pixels == 0, 0, (np.floor(pixels * 256) + 0.5) / 256)
    return rounded.astype(np.float32).reshape(config.batch, -1, *config.position_size)


def _shape(config: Config) -> tuple[int, ...]:
    """(N, offset_groups, taps, axes, *position_size); displacements in the order of the axes."""
    groups, taps = config.offset_groups, config.taps
    return (config.batch, groups, taps, config.axes, *config.position_size)


def _zero(rng: np.random.Generator, config: Config) -> Array:
    return np.zeros(_shape(config))


def _outside(rng: np.random.Generator, config: Config) -> Array:
    return np.full(_shape(config), 2.0 * max(config.image_size))


def _normal(deviation: float) -> Callable[[np.random.Generator, Config], Array]:
    return lambda rng, config: deviation * rng.standard_normal(_shape(config))


def _uniform(rng: np.random.Generator, config: Config) -> Array:
    pixels = rng.random(_shape(config))
    taps = np.indices([config.kernel] * config.axes).reshape(config.axes, config.taps)
    positions = np.indices(config.position_size)
    for axis, size in enumerate(config.image_size):
        tap = taps[axis].reshape(-1, *[1] * config.axes)
        regular = positions[axis] * config.stride + tap - config.padding
        pixels[:, :, :, axis] = pixels[:, :, :, axis] * (size - 1) - regular
    return pixels


def _flow(rng: np.random.Generator, config: Config) -> Array:
    """A wave along the image with an amplitude of 10 pixels, plus normal-1 noise for each tap."""
    axes = config.axes
    of_group = (config.batch, config.offset_groups, 1, axes, *[1] * axes)
    *rates, phase = rng.random((axes + 1, *of_group))
    lines = np.meshgrid(*(np.linspace(0, 1, n) for n in config.position_size), indexing="ij")
    turns = sum(rate * line for rate, line in zip(rates, lines, strict=True)) + phase
    pixels: Array = 10 * np.sin(2 * np.pi * turns) + rng.standard_normal(_shape(config))
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
