"""The definition of operators that sum samples without a filter, as loops in float64.

As in ``reference.py``, every term is added up on its own, and so is its absolute value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import floor, isinf, isnan, nan, prod
from typing import Any

import numpy as np
from reference import Sum

Neighbour = tuple[tuple[int, ...], float, tuple[float, ...]]

FAR = -2.0  # outside any image, as every infinity is


@dataclass
class Sample:
    """One sample of one group: where it reads, and its factor.

    Attributes:
        x, y: its coordinates; dx, dy: their derivatives by the two coordinates of the offset.
        first, height, width: the image that it is taken from.
        offset, mask: indices of its coordinates' x and of its factor.
    """

    x: float
    y: float
    dx: float
    dy: float
    first: int
    height: int
    width: int
    offset: tuple[int, ...]
    mask: tuple[int, ...]


def reference_attention(
    value: Any,
    spatial_shapes: Any,
    sampling_locations: Any,
    attention_weights: Any,
    points: Any = None,
    *,
    grad_output: Any = None,
    boundary_grad: str = "one_sided",
) -> dict[str, Sum]:
    """``output``, and with ``grad_output`` the gradients, by name of the argument."""
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    per_level = points or [sampling_locations.shape[4]] * len(spatial_shapes)
    locations = sampling_locations.astype(np.float64)

    def samples(n: int, q: int, head: int) -> Iterator[Sample]:
        first = behind = 0
        for level, (height, width) in enumerate(spatial_shapes):
            for point in range(per_level[level]):
                at = (n, q, head, behind + point) if points else (n, q, head, level, point)
                x, y = (float(each) for each in locations[at])
                yield Sample(
                    x * width - 0.5,
                    y * height - 0.5,
                    width,
                    height,
                    first,
                    height,
                    width,
                    (*at, 0),
                    at,
                )
            first += height * width
            behind += per_level[level]

    arrays = {
        "value": value,
        "sampling_locations": locations,
        "attention_weights": attention_weights,
    }
    sums = {"output": Sum.zeros((batch, queries, heads * channels))}
    if grad_output is not None:
        sums |= {name: Sum.zeros(array.shape) for name, array in arrays.items()}
    pixels = value.astype(np.float64)
    for n, q, head in indices((batch, queries, heads)):
        for sample in samples(n, q, head):
            _add(
                sums,
                tuple(arrays),
                sample,
                [(n, q, head * channels + c) for c in range(channels)],
                lambda pixel, c, n=n, head=head: (n, pixel, head, c),
                (pixels, attention_weights, grad_output),
                boundary_grad,
            )
    return sums


def reference_dcn(
    input: Any,
    offset: Any,
    mask: Any,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    grad_output: Any = None,
    boundary_grad: str = "one_sided",
) -> dict[str, Sum]:
    """The same for ``dcnv3``."""
    (kernel, strides, dilations) = map(_pair, (kernel_size, stride, dilation))
    top, left = (_pair(both)[0] for both in _pair(padding))
    batch, _, _, channels = input.shape
    rows, cols = offset.shape[1:3]
    taps = [(i, j) for i in range(kernel[1]) for j in range(kernel[0])]  # x outside, y inside
    if remove_center:
        taps.remove((kernel[1] // 2, kernel[0] // 2))
    groups = mask.shape[3] // len(taps)
    width = channels // groups
    center_y, center_x = (d * (k - 1) // 2 for d, k in zip(dilations, kernel, strict=True))
    arrays = {"input": input, "offset": offset, "mask": mask}
    sums = {"output": Sum.zeros((batch, rows, cols, channels))}
    if grad_output is not None:
        sums |= {name: Sum.zeros(array.shape) for name, array in arrays.items()}
    image, displacements = input.astype(np.float64), offset.astype(np.float64)
    for n, oy, ox, g in indices((batch, rows, cols, groups)):
        for tap, (i, j) in enumerate(taps):
            at = (g * len(taps) + tap) * 2
            dx, dy = (float(displacements[n, oy, ox, at + k]) for k in (0, 1))
            x = ox * strides[1] - left + center_x
            y = oy * strides[0] - top + center_y
            sample = Sample(
                x + (i * dilations[1] - center_x + dx) * offset_scale,
                y + (j * dilations[0] - center_y + dy) * offset_scale,
                offset_scale,
                offset_scale,
                0,
                input.shape[1],
                input.shape[2],
                (n, oy, ox, at),
                (n, oy, ox, g * len(taps) + tap),
            )
            _add(
                sums,
                tuple(arrays),
                sample,
                [(n, oy, ox, g * width + c) for c in range(width)],
                lambda pixel, c, n=n, g=g: (
                    n,
                    pixel // input.shape[2],
                    pixel % input.shape[2],
                    g * width + c,
                ),
                (image, mask, grad_output),
                boundary_grad,
            )
    return sums


def reference_dcnv4(
    input: Any,
    offset_mask: Any,
    kernel_size: Any,
    groups: int,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    **how: Any,
) -> dict[str, Sum]:
    """The same for ``dcnv4``: its rows taken apart."""
    kernel = _pair(kernel_size)
    taps = kernel[0] * kernel[1] - remove_center
    at = np.arange(groups * 3 * taps).reshape(groups, 3 * taps)
    pairs, masks = at[:, : 2 * taps].ravel(), at[:, 2 * taps :].ravel()
    sizes = stride, padding, dilation, offset_scale, remove_center
    sums = reference_dcn(
        input, offset_mask[..., pairs], offset_mask[..., masks], kernel_size, *sizes, **how
    )
    if "offset" in sums:
        rows = Sum.zeros(offset_mask.shape)
        for part, columns in ((sums.pop("offset"), pairs), (sums.pop("mask"), masks)):
            rows.pair[..., columns] = part.pair
        sums["offset_mask"] = rows
    return sums


def _add(
    sums: dict[str, Sum],
    names: tuple[str, ...],
    sample: Sample,
    outputs: list[tuple[int, ...]],
    pixel_index: Any,
    arrays: tuple[Any, Any, Any],
    boundary_grad: str,
) -> None:
    """Add what a sample contributes to the output and the gradients."""
    pixels, factors, grad_output = arrays
    factor = float(factors[sample.mask])
    point, size = (sample.y, sample.x), (sample.height, sample.width)
    inside = all(-1 < c < length for c, length in zip(point, size, strict=True))
    nan_coord = any(map(isnan, point))
    corners = [
        (sample.first + pixel[0] * sample.width + pixel[1], in_image, *rest)
        for pixel, *rest in neighbours(point)
        for in_image in [all(0 <= p < n for p, n in zip(pixel, size, strict=True))]
    ]
    sloping = inside or boundary_grad == "one_sided"
    has_slope = sloping and any(in_image for _, in_image, *_ in corners)
    for c, out in enumerate(outputs):
        values, slopes = [], []
        for pixel, in_image, share, by_axis in corners:
            value = float(pixels[pixel_index(pixel, c)]) if in_image else 0.0
            values.append(share * (value if inside else 0.0))
            slopes.append([slope * (value if sloping else 0.0) for slope in by_axis])
        sums["output"].add(out, factor, values)
        if grad_output is None:
            continue
        grad = float(grad_output[out])
        by_value, by_slope = (
            grad if receives or nan_coord else 0.0 for receives in (inside, has_slope)
        )
        sums[names[2]].add(sample.mask, by_value, values)
        by_y, by_x = zip(*slopes, strict=True)
        for axis, (step, terms) in enumerate(((sample.dx, by_x), (sample.dy, by_y))):
            index = (*sample.offset[:-1], sample.offset[-1] + axis)
            sums[names[1]].add(index, by_slope * factor * step, terms)
        for pixel, in_image, share, _ in corners:
            if in_image and share > 0:
                sums[names[0]].add(pixel_index(pixel, c), grad * factor, [share])


def neighbours(point: Sequence[float]) -> list[Neighbour]:
    """The pixels around a point, their multilinear weights, and the derivatives by each coordinate.

    At a whole coordinate the derivative is that to the right. A NaN coordinate has no neighbours
    but NaN for a weight.
    """
    axes = len(point)
    if any(map(isnan, point)):
        return [((-1,) * axes, nan, (nan,) * axes)]
    if any(map(isinf, point)):
        point = [FAR] * axes
    low = list(map(floor, point))
    found = []
    for high in product((0, 1), repeat=axes):
        shares = [
            (c - at) if up else 1 - (c - at) for c, at, up in zip(point, low, high, strict=True)
        ]
        slopes = [prod(shares[:a] + shares[a + 1 :]) * (1 if high[a] else -1) for a in range(axes)]
        pixel = tuple(at + up for at, up in zip(low, high, strict=True))
        found.append((pixel, prod(shares), tuple(slopes)))
    return found


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The indices of an array of that shape."""
    return product(*map(range, shape))


def _pair(value: Any) -> tuple[Any, Any]:
    return (value, value) if np.ndim(value) == 0 else tuple(value)
