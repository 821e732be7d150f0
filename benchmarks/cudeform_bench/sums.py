"""The sums of the benchmark, attention, DCNv3 and DCNv4: their sizes and arrays."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform_bench.convolutions import product_sign

Array = NDArray[Any]

KERNEL, TAPS = 3, 9

# Standard deviations of the displacements in pixels; None puts all samples outside of the image.
# Rounding decides the derivative at whole coordinates, so there is no distribution with them.
DEVIATIONS = {"normal-1": 1.0, "normal-2": 2.0, "normal-8": 8.0, "outside": None}


@dataclass(frozen=True)
class Sum:
    """A sum of samples to time: attention over levels, or a DCNv3 or DCNv4 that keeps the size.

    Properties that a :class:`convolutions.Convolution` has too mean the same.

    Attributes:
        name: its name for ``--config``.
        operator: name of the public function.
        batch: number of images.
        sizes: (height, width) of each level; of a DCNv3 or DCNv4, of its image.
        groups, channels: groups or heads, and the channels of each.
        queries: number of queries of an attention.
        points: number of points of a query, head and level.
        offsets: distribution of the displacements, a name in ``DEVIATIONS``.
    """

    name: str
    operator: str
    batch: int
    sizes: tuple[tuple[int, int], ...]
    groups: int
    channels: int
    queries: int = 0
    points: int = 4
    offsets: str = "normal-2"

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return 2

    @property
    def transposed(self) -> bool:
        """Whether the forward adds to corners instead of reading them."""
        return False

    @property
    def scatter_direction(self) -> str:
        """The direction that adds to the corners of samples."""
        return "backward"

    def product_flop(self, direction: str) -> int:
        """There is no matrix product."""
        return 0

    @property
    def is_attention(self) -> bool:
        """Whether samples are absolute locations on levels."""
        return self.operator == "ms_deform_attn"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are not arrays."""
        if self.is_attention:
            return {"spatial_shapes": self.sizes}
        grid = {"kernel_size": KERNEL, "padding": KERNEL // 2}
        return grid | ({"groups": self.groups} if self.operator == "dcnv4" else {})

    @property
    def pixels(self) -> int:
        """Pixels of an image, of all its levels."""
        return sum(height * width for height, width in self.sizes)

    @property
    def out_size(self) -> tuple[int, ...]:
        """Sizes of the output's positions: of the queries, or of the image."""
        return (self.queries,) if self.is_attention else self.sizes[0]

    @property
    def taps(self) -> int:
        """Number of samples of a position and group."""
        return len(self.sizes) * self.points if self.is_attention else TAPS

    @property
    def samples(self) -> int:
        """Number of samples of one group: positions of the whole batch times taps."""
        return self.batch * prod(self.out_size) * self.taps

    @property
    def image_channels(self) -> int:
        """Channels of all groups."""
        return self.groups * self.channels

    @property
    def operand_elements(self) -> int:
        """Number of elements of all operands: the image, coordinates and weights."""
        return self.batch * self.pixels * self.image_channels + 3 * self.groups * self.samples

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, positions, C) or (N, OH, OW, C)."""
        return (self.batch, *self.out_size, self.image_channels)

    @property
    def distributions(self) -> tuple[str, ...]:
        """The values that ``offsets`` may have."""
        return tuple(DEVIATIONS)

    @property
    def shape(self) -> str:
        """Sizes as ``1x22223x8x32 q300 l4 p4`` (queries, levels, points) or ``1x8x8x64 3x3 g4``."""
        if not self.is_attention:
            sizes = product_sign(self.batch, *self.sizes[0], self.image_channels)
            return f"{sizes} 3x3 g{self.groups} {self.operator}"
        sizes = product_sign(self.batch, self.pixels, self.groups, self.channels)
        return f"{sizes} q{self.queries} l{len(self.sizes)} p{self.points}"

    def operands(self, rng: np.random.Generator) -> dict[str, Array]:
        """The arguments of the operator that are arrays, by name, in float32."""
        outer = (self.batch, *self.out_size)
        displacement = _displacement(rng, self, (*outer, self.groups, self.taps, 2))
        weights = rng.random((*outer, self.groups, self.taps), np.float32)
        if self.is_attention:
            by_level = (*outer, self.groups, len(self.sizes), self.points)
            value = (self.batch, self.pixels, self.groups, self.channels)
            return {
                "value": rng.standard_normal(value, np.float32),
                "sampling_locations": _locations(rng, self, displacement).reshape(*by_level, 2),
                "attention_weights": weights.reshape(by_level),
            }
        image = rng.standard_normal((*outer, self.image_channels), np.float32)
        offset = _rounded(displacement).astype(np.float32)
        if self.operator == "dcnv4":
            pairs = offset.reshape(*outer, self.groups, 2 * TAPS)
            rows = np.concatenate([pairs, weights], -1).reshape(*outer, -1)
            padding = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % 8)]
            return {"input": image, "offset_mask": np.pad(rows, padding)}
        return {
            "input": image,
            "offset": offset.reshape(*outer, -1),
            "mask": weights.reshape(*outer, -1),
        }


def _displacement(rng: np.random.Generator, config: Sum, shape: tuple[int, ...]) -> Array:
    """Displacements (x, y) in pixels."""
    deviation = DEVIATIONS[config.offsets]
    if deviation is None:
        return np.full(shape, 2.0 * max(max(size) for size in config.sizes))
    return deviation * rng.standard_normal(shape)


def _locations(rng: np.random.Generator, config: Sum, displacement: Array) -> Array:
    """Normalised locations around the reference point of each query.

    If there are as many queries as pixels, as in an encoder, the reference points are the pixels in
    their order. Otherwise they are random.
    """
    if config.queries == config.pixels:
        reference = np.concatenate([_centers(*size) for size in config.sizes])
    else:
        reference = rng.random((config.queries, 2))
    sizes = np.array([(width, height) for height, width in config.sizes])
    sizes = np.repeat(sizes, config.points, axis=0)
    coordinates = _rounded(reference[:, None, None] * sizes - 0.5 + displacement)
    locations: Array = ((coordinates + 0.5) / sizes).astype(np.float32)
    return locations


def _centers(height: int, width: int) -> Array:
    """Centres (x, y) of the pixels of a level, row by row, normalised."""
    y, x = np.indices((height, width)).reshape(2, -1)
    return np.stack([(x + 0.5) / width, (y + 0.5) / height], -1)


def _rounded(pixels: Array) -> Array:
    """Odd multiples of 1/512, for the reason that ``convolutions`` gives."""
    rounded: Array = (np.floor(pixels * 256) + 0.5) / 256
    return rounded
