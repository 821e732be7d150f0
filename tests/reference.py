"""The definition, as loops in float64 over any number of axes: all engines are compared with it.

Everything is added one term at a time, and the absolute value of each term is added up as well: a
result is known to be wrong when its error is large beside that sum, its *scale*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import floor, isinf, isnan, nan, prod
from typing import Any

import numpy as np

Neighbour = tuple[tuple[int, ...], float, tuple[float, ...]]

FAR = -2.0  # outside any image, as every infinity is


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The indices of an array of that shape."""
    return product(*map(range, shape))


class Sum:
    """An array of sums, and of the sums of the absolute values of their terms."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._sums = dict.fromkeys(indices(self.shape), (0.0, 0.0))

    def add(self, index: tuple[int, ...], factor: float, parts: Sequence[float]) -> None:
        value, scale = self._sums[index]
        self._sums[index] = (
            value + factor * sum(parts),
            scale + abs(factor) * sum([abs(part) for part in parts]),
        )

    @property
    def value(self) -> Any:
        return self._array(0)

    @property
    def scale(self) -> Any:
        return self._array(1)

    def _array(self, which: int) -> Any:
        flat = [both[which] for both in self._sums.values()]
        return np.array(flat, np.float64).reshape(self.shape)

    def items(self) -> Iterator[tuple[tuple[int, ...], tuple[float, float]]]:
        """Index, sum and scale of each element."""
        return iter(self._sums.items())

    def put(self, index: tuple[int, ...], both: tuple[float, float]) -> None:
        """Set sum and scale of an element."""
        self._sums[index] = both

    def reshaped(self, shape: Sequence[int]) -> Sum:
        """The same with another shape."""
        result = Sum(shape)
        result._sums = dict(zip(result._sums, self._sums.values(), strict=True))
        return result


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
    strides, dilations = _each(stride, axes), _each(dilation, axes)
    begins = [_each(both, 2)[0] for both in _each(padding, axes)]
    groups = channels // group_channels if group_channels else 1
    offset_groups = offset.shape[1] // (axes * prod(kernel))
    vectors_shape = (batch, offset_groups, *kernel, axes, *out)
    planes_shape = (batch, offset_groups, *kernel, *out)

    image = _floats(input)
    vectors = _floats(offset.reshape(vectors_shape))
    planes = _floats(np.ones(planes_shape) if mask is None else mask.reshape(planes_shape))
    filters = _floats(weight)
    biases = _floats(np.zeros(out_channels) if bias is None else bias)
    backward = grad_output is not None
    upstream = _floats(grad_output) if backward else None

    output = Sum((batch, out_channels, *out))
    grad_input, grad_weight, grad_bias = Sum(input.shape), Sum(weight.shape), Sum((out_channels,))
    grad_vectors, grad_planes = Sum(vectors_shape), Sum(planes_shape)

    with np.errstate(all="ignore"):  # infinities and NaN are values like others
        for index in indices(output.shape):
            output.add(index, 1.0, [biases[index[1:2]]])
            if backward:
                grad_bias.add((index[1],), 1.0, [upstream[index]])

        for n, og, *index in indices((batch, offset_groups, *out, *kernel)):
            position, tap = tuple(index[:axes]), tuple(index[axes:])
            sample = (n, og, *tap, *position)
            along = [(n, og, *tap, a, *position) for a in range(axes)]
            m = planes[sample]
            point = [
                position[a] * strides[a] - begins[a] + tap[a] * dilations[a] + vectors[along[a]]
                for a in range(axes)
            ]
            inside = all(-1 < c < length for c, length in zip(point, size, strict=True))
            corners = [
                (pixel, all(0 <= p < length for p, length in zip(pixel, size, strict=True)), *rest)
                for pixel, *rest in neighbours(point)
            ]

            # What a gradient can reach: a sample of nothing does not even multiply it by 0.
            lost = any(map(isnan, point))
            sloping = inside or boundary_grad == "one_sided"
            held = sloping and any(in_image for _, in_image, *_ in corners)
            reached = [(pixel, share) for pixel, in_image, share, _ in corners if in_image]

            for c in range(og * channels // offset_groups, (og + 1) * channels // offset_groups):
                values, slopes = [], []
                for pixel, in_image, share, by_axis in corners:
                    value = image[(n, c, *pixel)] if in_image else 0.0
                    values.append(share * (value if inside else 0.0))
                    slopes.append([slope * (value if sloping else 0.0) for slope in by_axis])

                terms = list(zip(*slopes, strict=True))
                group, k = divmod(c, group_channels)
                first, last = (each * out_channels // groups for each in (group, group + 1))
                for o in range(first, last):
                    w = filters[(o, k, *tap)]
                    here = (n, o, *position)
                    output.add(here, w * m, values)
                    if not backward:
                        continue
                    g = upstream[here]
                    grad_weight.add((o, k, *tap), g * m, values)
                    by_value, by_slope = (g * w if felt or lost else 0.0 for felt in (inside, held))
                    grad_planes.add(sample, by_value, values)
                    for a in range(axes):
                        grad_vectors.add(along[a], by_slope * m, terms[a])
                    for pixel, share in reached:
                        if share > 0:
                            grad_input.add((n, c, *pixel), g * w * m, [share])

    results = {"output": output}
    if backward:
        results |= {"input": grad_input, "weight": grad_weight}
        results["offset"] = grad_vectors.reshaped(offset.shape)
        if bias is not None:
            results["bias"] = grad_bias
        if mask is not None:
            results["mask"] = grad_planes.reshaped(mask.shape)
    return results


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


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * count


def _floats(array: Any) -> dict[tuple[int, ...], float]:
    """Python floats by index: they multiply infinity by zero without a warning."""
    floats = np.asarray(array).astype(np.float64)
    return dict(zip(indices(floats.shape), floats.ravel().tolist(), strict=True))
