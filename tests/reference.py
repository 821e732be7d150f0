"""The definition, as seven loops in float64: what every engine is compared with.

Everything is added one term at a time, and the absolute value of each term is added up as well: a
result is known to be wrong when its error is large beside that sum, its *scale*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import floor, isinf, isnan, nan
from typing import Any

import numpy as np

Neighbour = tuple[int, int, float, float, float]

FAR = -2.0  # outside any image, as every infinity is


class Sum:
    """An array of sums, and of the sums of the absolute values of their terms."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.value = np.zeros(shape)
        self.scale = np.zeros(shape)

    def add(self, index: tuple[int, ...], factor: float, parts: Iterable[float]) -> None:
        self.value[index] += factor * sum(parts)
        self.scale[index] += abs(factor) * sum(map(abs, parts))


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
    batch, channels, height, width = input.shape
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    stride_h, stride_w = _pair(stride)
    (pad_top, _), (pad_left, _) = map(_pair, _pair(padding))
    dilation_h, dilation_w = _pair(dilation)
    groups = channels // group_channels if group_channels else 1
    offset_groups = offset.shape[1] // (2 * kernel_h * kernel_w)
    pairs_shape = (batch, offset_groups, kernel_h, kernel_w, 2, out_h, out_w)
    planes_shape = (batch, offset_groups, kernel_h, kernel_w, out_h, out_w)

    image = _floats(input)
    pairs = _floats(offset.reshape(pairs_shape))
    planes = _floats(np.ones(planes_shape) if mask is None else mask.reshape(planes_shape))
    filters = _floats(weight)
    biases = _floats(np.zeros(out_channels) if bias is None else bias)
    backward = grad_output is not None
    upstream = _floats(grad_output) if backward else None

    output = Sum((batch, out_channels, out_h, out_w))
    grad_input, grad_weight, grad_bias = Sum(input.shape), Sum(weight.shape), Sum((out_channels,))
    grad_pairs, grad_planes = Sum(pairs_shape), Sum(planes_shape)

    with np.errstate(all="ignore"):  # infinities and NaN are values like others
        for n, o, oy, ox in product(*map(range, output.value.shape)):
            output.add((n, o, oy, ox), 1.0, [biases[o]])
            if backward:
                grad_bias.add((o,), 1.0, [upstream[n][o][oy][ox]])

        for n, oy, ox, i, j, c in product(
            *map(range, (batch, out_h, out_w, kernel_h, kernel_w, channels))
        ):
            og = c // (channels // offset_groups)
            m = planes[n][og][i][j][oy][ox]
            y = oy * stride_h - pad_top + i * dilation_h + pairs[n][og][i][j][0][oy][ox]
            x = ox * stride_w - pad_left + j * dilation_w + pairs[n][og][i][j][1][oy][ox]
            inside = -1 < y < height and -1 < x < width

            # What a gradient can reach: a sample of nothing does not even multiply it by 0.
            lost, held = isnan(y) or isnan(x), False
            values, slopes_y, slopes_x, reached = [], [], [], []
            for row, col, share, slope_y, slope_x in neighbours(y, x):
                in_image = 0 <= row < height and 0 <= col < width
                pixel = image[n][c][row][col] if in_image else 0.0
                values.append(share * (pixel if inside else 0.0))
                slope_pixel = pixel if inside or boundary_grad == "one_sided" else 0.0
                held = held or (in_image and (inside or boundary_grad == "one_sided"))
                slopes_y.append(slope_y * slope_pixel)
                slopes_x.append(slope_x * slope_pixel)
                if in_image and share > 0:
                    reached.append((row, col, share))

            group = c // group_channels
            for o in range(group * out_channels // groups, (group + 1) * out_channels // groups):
                k = c % group_channels
                w = filters[o][k][i][j]
                output.add((n, o, oy, ox), w * m, values)
                if not backward:
                    continue
                g = upstream[n][o][oy][ox]
                grad_weight.add((o, k, i, j), g * m, values)
                by_value, by_slope = (g * w if felt or lost else 0.0 for felt in (inside, held))
                grad_planes.add((n, og, i, j, oy, ox), by_value, values)
                grad_pairs.add((n, og, i, j, 0, oy, ox), by_slope * m, slopes_y)
                grad_pairs.add((n, og, i, j, 1, oy, ox), by_slope * m, slopes_x)
                for row, col, share in reached:
                    grad_input.add((n, c, row, col), g * w * m, [share])

    results = {"output": output}
    if backward:
        results |= {"input": grad_input, "weight": grad_weight}
        results["offset"] = _reshaped(grad_pairs, offset.shape)
        if bias is not None:
            results["bias"] = grad_bias
        if mask is not None:
            results["mask"] = _reshaped(grad_planes, mask.shape)
    return results


def neighbours(y: float, x: float) -> list[Neighbour]:
    """The four pixels around a point: row, column, bilinear weight and its derivatives by y and x.

    At a whole coordinate the derivative is that to the right. A NaN coordinate has no neighbours
    but NaN for a weight.
    """
    if isnan(y) or isnan(x):
        return [(-1, -1, nan, nan, nan)]
    if isinf(y) or isinf(x):
        y = x = FAR
    top, left = floor(y), floor(x)
    ly, lx = y - top, x - left
    return [
        (top, left, (1 - ly) * (1 - lx), lx - 1, ly - 1),
        (top, left + 1, (1 - ly) * lx, -lx, 1 - ly),
        (top + 1, left, ly * (1 - lx), 1 - lx, -ly),
        (top + 1, left + 1, ly * lx, lx, ly),
    ]


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def _floats(array: Any) -> Any:
    """Nested lists of Python floats: they multiply infinity by zero without a warning."""
    return np.asarray(array).astype(np.float64).tolist()


def _reshaped(total: Sum, shape: Sequence[int]) -> Sum:
    result = Sum(shape)
    result.value, result.scale = total.value.reshape(shape), total.scale.reshape(shape)
    return result
