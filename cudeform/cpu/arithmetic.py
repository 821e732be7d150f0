"""Sums of arrays, for operators that are composed of several calls of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.call import compute_dtype

Array = NDArray[Any]


class Arithmetic:
    """The sums that a composition needs, on arrays of the CPU."""

    def blank(self, shape: tuple[int, ...], like: Array) -> Array:
        """A broadcast zero, for an image on which no result depends."""
        return np.broadcast_to(np.zeros((), like.dtype), shape)

    def empty_like(self, array: Array) -> Array:
        """A new contiguous array of the same shape and dtype."""
        return np.empty(array.shape, array.dtype)

    def fill_zero(self, array: Array) -> None:
        """Set an array to 0."""
        array[...] = 0

    def add(self, target: Array, other: Array) -> None:
        """Add another array to ``target``."""
        target += other

    def add_bias(self, images: Array, bias: Array) -> None:
        """Add a number for each channel to images (N, C, *size)."""
        images += bias.reshape(-1, *(1,) * (images.ndim - 2))

    def sum_channels(self, images: Array, sums: Array) -> None:
        """Write the sum of each channel of images (N, C, *size)."""
        axes = (0, *range(2, images.ndim))
        sums[...] = np.add.reduce(images, axes, compute_dtype(images.dtype))
