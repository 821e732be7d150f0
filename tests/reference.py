"""The definition, in float64 over any number of axes: all engines are compared with it.

It loops over channels and corners; images of the batch, filters, taps and positions are axes of
arrays. Each number has its absolute value beside it, on a first axis of two: the same products and
sums of both give a result and its *scale*, the sum of the absolute values of its terms. A result is
wrong when its error is large beside its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

FAR = -2.0  # outside any image, as every infinity is


class Corner(NamedTuple):
    """One of the 2^d pixels around each sample: arrays of shape (N, OG, *kernel, *out)."""

    pixel: list[Any]  # its index along each axis, 0 where it is not in bounds
    in_bounds: Any
    weight: Any  # multilinear
    slopes: list[Any]  # the derivatives of the weight by each coordinate

    def of_group(self, og: int) -> Corner:
        """Those of one offset group."""
        pixel, slopes = ([array[:, og] for array in arrays] for arrays in (self.pixel, self.slopes))
        return Corner(pixel, self.in_bounds[:, og], self.weight[:, og], slopes)


class Sum:
    """Results that are sums: their values and their scales."""

    def __init__(self, pair: Any) -> None:
        self.pair = pair

    @classmethod
    def zeros(cls, shape: Sequence[int]) -> Sum:
        """Sums of no terms yet."""
        return cls(np.zeros((2, *shape)))

    def add(self, index: tuple[int, ...], factor: float, parts: Sequence[float]) -> None:
        """Add terms to the sum at an index."""
        self.pair[(0, *index)] += factor * sum(parts)
        self.pair[(1, *index)] += abs(factor) * sum([abs(part) for part in parts])

    @property
    def value(self) -> Any:
        return self.pair[0]

    @property
    def scale(self) -> Any:
        return self.pair[1]


def paired(array: Any) -> Any:
    """An array in float64 and its absolute values, on a new first axis."""
    floats = np.asarray(array).astype(np.float64)
    return np.stack([floats, abs(floats)])


def reference(
    input: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    mask: Any = None,
    *,
    grad_output: Any = None,
    boundary_grad: str = "one_sided",
) -> dict[str, Sum]:
    """``output``, and with ``grad_output`` the gradients, by name of the argument."""
    batch, channels, *size = input.shape
    out_channels, group_channels, *kernel = weight.shape
    axes, out = len(size), offset.shape[2:]
    groups = channels // group_channels if group_channels else 1
    offset_groups = offset.shape[1] // (axes * prod(kernel))
    ones = (1,) * axes
    of_taps, of_positions = tuple(range(-2 * axes, -axes)), tuple(range(-axes, 0))

    # For each axis, of shape (N, OG, *kernel, *out).
    displacements = np.asarray(offset).astype(np.float64)
    displacements = displacements.reshape(batch, offset_groups, *kernel, axes, *out)
    displacements = np.moveaxis(displacements, 2 + axes, 0)
    regular = regular_grid(kernel, out, stride, padding, dilation)
    coordinates = [point + by for point, by in zip(regular, displacements, strict=True)]

    # From here on arrays are pairs, see ``paired``; conditions are not.
    image, filters = paired(input), paired(weight)
    masks = paired(np.ones(coordinates[0].shape) if mask is None else mask)
    masks = masks.reshape(2, *coordinates[0].shape)
    backward = grad_output is not None
    upstream = paired(grad_output if backward else np.zeros((batch, out_channels, *out)))

    output, grad_input, grad_weight = map(np.zeros_like, (upstream, image, filters))
    grad_displacements = np.zeros((axes, *masks.shape))
    grad_masks = np.zeros_like(masks)
    if bias is not None:
        output += paired(bias).reshape(2, 1, out_channels, *ones)

    with np.errstate(all="ignore"):  # infinities and NaN are values like others
        grad_bias = upstream.sum(axis=(1, *of_positions))
        nan_coord = _any(np.isnan(c) for c in coordinates)
        in_range = ~_any(~((c > -1) & (c < n)) for c, n in zip(coordinates, size, strict=True))
        corners = corners_of(coordinates, size)

        # Where a sample has no value, or no slope, a gradient is not even multiplied by 0.
        has_value = in_range | nan_coord
        has_slope = in_range | (boundary_grad == "one_sided")
        reached = (has_slope & _any(corner.in_bounds for corner in corners)) | nan_coord

        for c in range(channels):
            og = c * offset_groups // channels
            group, k = divmod(c, group_channels)
            first, last = (each * out_channels // groups for each in (group, group + 1))
            around = [corner.of_group(og) for corner in corners]
            at = [(np.arange(batch).reshape(-1, *ones, *ones), *corner.pixel) for corner in around]

            # (2, N, *kernel, *out), and (2, N, O, *kernel, *out) with an axis for the filters.
            pixels = [
                np.where(corner.in_bounds, image[:, :, c][(slice(None), *index)], 0.0)
                for corner, index in zip(around, at, strict=True)
            ]
            m = masks[:, :, og]
            w = filters[:, first:last, k].reshape(2, 1, last - first, *kernel, *ones)
            g = upstream[:, :, first:last].reshape(2, batch, last - first, *ones, *out)

            value = _sum(
                paired(corner.weight) * np.where(in_range[:, og], pixel, 0.0)
                for corner, pixel in zip(around, pixels, strict=True)
            )
            column = (m * value)[:, :, None]
            output[:, :, first:last] += (w * column).sum(axis=of_taps)
            if not backward:
                continue
            grad_weight[:, first:last, k] += (g * column).sum(axis=(1, *of_positions))

            by_value = np.where(has_value[:, og][:, None], g * w, 0.0)
            grad_masks[:, :, og] += (by_value * value[:, :, None]).sum(axis=2)

            by_slope = np.where(reached[:, og][:, None], g * w, 0.0)
            for a in range(axes):
                slope = _sum(
                    paired(corner.slopes[a]) * np.where(has_slope[:, og], pixel, 0.0)
                    for corner, pixel in zip(around, pixels, strict=True)
                )
                grad_displacements[a][:, :, og] += (by_slope * (m * slope)[:, :, None]).sum(axis=2)

            by_pixel = (g * w * m[:, :, None]).sum(axis=2)
            for corner, index in zip(around, at, strict=True):
                terms = np.where(
                    corner.in_bounds & (corner.weight > 0), by_pixel * corner.weight, 0
                )
                for total, added in zip(grad_input[:, :, c], terms, strict=True):
                    np.add.at(total, index, added)

    results = {"output": output}
    if backward:
        results |= {"input": grad_input, "weight": grad_weight}
        by_axis = np.moveaxis(grad_displacements, 0, 3 + axes)
        results["offset"] = by_axis.reshape(2, *offset.shape)
        if bias is not None:
            results["bias"] = grad_bias
        if mask is not None:
            results["mask"] = grad_masks.reshape(2, *mask.shape)
    return {name: Sum(pair) for name, pair in results.items()}


def regular_grid(
    kernel: Sequence[int], out: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> list[Any]:
    """Coordinates along each axis of samples without displacement, of shape (*kernel, *out)."""
    axes = len(out)
    grid = np.meshgrid(*map(np.arange, (*kernel, *out)), indexing="ij")
    steps = zip(_each(stride, axes), _each(padding, axes), _each(dilation, axes), strict=True)
    return [
        position * stride - _each(both_ends, 2)[0] + tap * dilation
        for tap, position, (stride, both_ends, dilation) in zip(
            grid[:axes], grid[axes:], steps, strict=True
        )
    ]


def corners_of(coordinates: Sequence[Any], size: Sequence[int]) -> list[Corner]:
    """The 2^d pixels around each sample, given its coordinates along each axis.

    At a whole coordinate the derivative is that to the right. No corner of a NaN coordinate is in
    bounds, and each weighs NaN.
    """
    axes = len(coordinates)
    infinite = _any(np.isinf(c) for c in coordinates)
    one = np.where(_any(np.isnan(c) for c in coordinates), np.nan, 1.0)
    coordinates = [np.where(infinite, FAR, c) for c in coordinates]
    low = [np.floor(c) for c in coordinates]
    found = []
    for high in product((0, 1), repeat=axes):
        pixel = [at + up for at, up in zip(low, high, strict=True)]
        out_of_bounds = (~((p >= 0) & (p < n)) for p, n in zip(pixel, size, strict=True))
        in_bounds = ~_any(out_of_bounds)
        shares = [
            c - at if up else 1 - (c - at) for c, at, up in zip(coordinates, low, high, strict=True)
        ]
        slopes = [
            prod(shares[:a] + shares[a + 1 :]) * (one if high[a] else -one) for a in range(axes)
        ]
        index = [np.where(in_bounds, p, 0).astype(int) for p in pixel]
        found.append(Corner(index, in_bounds, prod(shares) * one, slopes))
    return found


def _any(conditions: Any) -> Any:
    """Where one of several arrays of conditions holds."""
    return np.logical_or.reduce(list(conditions))


def _sum(arrays: Any) -> Any:
    """What arrays of one shape add up to."""
    return np.add.reduce(list(arrays))


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * count
