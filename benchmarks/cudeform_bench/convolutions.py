"""The deformable convolutions of the benchmark: their sizes and arrays.

The distribution of the offsets is part of a configuration: it determines which memory is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Convolution:
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

    def product_flop(self, direction: str) -> int:
        """Additions and multiplications of all matrix products of a direction.

        The backward has two products of the size of the forward's, for the gradients of the columns
        and of the weight. That of a transposed convolution has a third, because the gradient of its
        input is a convolution.
        """
        backward = 3 if self.transposed else 2
        return (
            self.gemm_flop * {"forward": 1, "backward": backward, "both": 1 + backward}[direction]
        )

    @property
    def scatter_direction(self) -> str:
        """The direction that adds to the corners of samples."""
        return "forward" if self.transposed else "backward"

    @property
    def shape(self) -> str:
        """Sizes as ``2x128x200x336->128 3x3 s2 g4 og8``: stride, groups, offset groups if not 1."""
        sizes = product_sign(self.batch, self.channels, *self.size)
        extras = {"s": self.stride, "g": self.groups, "og": self.offset_groups}
        shown = [f"{letter}{number}" for letter, number in extras.items() if number > 1]
        kernel = product_sign(*[self.kernel] * self.axes)
        last = ["transposed"] if self.transposed else []
        return " ".join([f"{sizes}->{self.out_channels}", kernel, *shown, *last])

    @property
    def operand_elements(self) -> int:
        """Number of elements of all operands, without the bias."""
        rows = self.channels if self.transposed else self.out_channels
        weight = rows * self.taps * self.image_channels // self.groups
        image = self.batch * self.channels * prod(self.size)
        return image + weight + (self.axes + 1) * self.offset_groups * self.samples

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, O, *out_size)."""
        return (self.batch, self.out_channels, *self.out_size)

    @property
    def distributions(self) -> tuple[str, ...]:
        """The values that ``offsets`` may have."""
        return tuple(OFFSETS)

    def operands(self, rng: np.random.Generator) -> dict[str, Array]:
        """The arguments of the operator that are arrays, by name, in float32."""
        rows = self.channels if self.transposed else self.out_channels
        inner = (self.image_channels // self.groups, *[self.kernel] * self.axes)
        weight = rng.standard_normal((rows, *inner), np.float32)
        mask_shape = (self.batch, self.offset_groups * self.taps, *self.position_size)
        return {
            "input": rng.standard_normal((self.batch, self.channels, *self.size), np.float32),
            "offset": _offset(rng, self),
            "weight": weight / np.float32(np.sqrt(self.taps * self.channels // self.groups)),
            "bias": rng.standard_normal(self.out_channels, np.float32),
            "mask": rng.random(mask_shape, np.float32),
        }


def product_sign(*sizes: int) -> str:
    return "x".join(map(str, sizes))


def _offset(rng: np.random.Generator, config: Convolution) -> Array:
    """Offsets of a configuration, (N, axes*offset_groups*taps, *position_size), in float32.

    Every offset except 0 is an odd multiple of 1/512. Its sum with an integer is exact in float32,
    so a float32 contestant samples at the same coordinates as the float64 reference. The sum is
    never an integer: at integers the derivative is discontinuous, and rounding would select a side.
    """
    pixels = OFFSETS[config.offsets](rng, config)
    rounded = np.where(pixels == 0, 0, (np.floor(pixels * 256) + 0.5) / 256)
    return rounded.astype(np.float32).reshape(config.batch, -1, *config.position_size)


def _shape(config: Convolution) -> tuple[int, ...]:
    """(N, offset_groups, taps, axes, *position_size); displacements in the order of the axes."""
    groups, taps = config.offset_groups, config.taps
    return (config.batch, groups, taps, config.axes, *config.position_size)


def _zero(rng: np.random.Generator, config: Convolution) -> Array:
    return np.zeros(_shape(config))


def _outside(rng: np.random.Generator, config: Convolution) -> Array:
    return np.full(_shape(config), 2.0 * max(config.image_size))


def _normal(deviation: float) -> Callable[[np.random.Generator, Convolution], Array]:
    return lambda rng, config: deviation * rng.standard_normal(_shape(config))


def _uniform(rng: np.random.Generator, config: Convolution) -> Array:
    pixels = rng.random(_shape(config))
    taps = np.indices([config.kernel] * config.axes).reshape(config.axes, config.taps)
    positions = np.indices(config.position_size)
    for axis, size in enumerate(config.image_size):
        tap = taps[axis].reshape(-1, *[1] * config.axes)
        regular = positions[axis] * config.stride + tap - config.padding
        pixels[:, :, :, axis] = pixels[:, :, :, axis] * (size - 1) - regular
    return pixels


def _flow(rng: np.random.Generator, config: Convolution) -> Array:
    """A wave along the image with an amplitude of 10 pixels, plus normal-1 noise for each tap."""
    axes = config.axes
    of_group = (config.batch, config.offset_groups, 1, axes, *[1] * axes)
    *rates, phase = rng.random((axes + 1, *of_group))
    lines = np.meshgrid(*(np.linspace(0, 1, n) for n in config.position_size), indexing="ij")
    turns = sum(rate * line for rate, line in zip(rates, lines, strict=True)) + phase
    pixels: Array = 10 * np.sin(2 * np.pi * turns) + rng.standard_normal(_shape(config))
    return pixels


# Distributions of the offsets, in pixels.
OFFSETS: dict[str, Callable[[np.random.Generator, Convolution], Array]] = {
    "zero": _zero,  # an ordinary convolution
    "normal-1": _normal(1),  # normal distribution with this standard deviation
    "normal-2": _normal(2),
    "normal-8": _normal(8),
    "uniform": _uniform,  # samples are uniformly distributed over the image
    "flow": _flow,  # smooth, as in video alignment
    "outside": _outside,  # all samples are outside the image
}
