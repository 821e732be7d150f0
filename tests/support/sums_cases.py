"""Sums of samples for tests: cases, plain loops, and the GPU engine's results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from support.gpu_engine import TestDevice

from cudeform import gpu
from cudeform.arrays import Operands
from cudeform.options import Options
from cudeform.sums_geometry import Level, ScaledGrid, SumGeometry

Array = NDArray[Any]
Arrays = dict[str, Array]

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class SumCase:
    """Sizes, and the arrays in their canonical form: input, offset, mask, grad_output."""

    g: SumGeometry
    arrays: Arrays

    def cast(self, dtype: str, coord_dtype: str | None = None) -> SumCase:
        """The same numbers in other dtypes."""
        by_name = dict.fromkeys(("offset", "mask"), coord_dtype or dtype)
        return replace(
            self,
            arrays={
                name: array.astype(DTYPES.get(to := by_name.get(name, dtype), to))
                for name, array in self.arrays.items()
            },
        )

    def __getattr__(self, name: str) -> Array:
        """An array by its name."""
        if name == "arrays" or name not in self.arrays:
            raise AttributeError(name)
        return self.arrays[name]


def attention(
    levels: tuple[tuple[int, int, int], ...] = ((6, 5, 4), (3, 4, 1), (2, 1, 4)),
    *,
    batch: int = 2,
    queries: int = 7,
    groups: int = 3,
    channels: int = 8,
    seed: int = 0,
) -> SumCase:
    """An attention over levels of (height, width, taps); locations reach beyond them."""
    first, images = 0, []
    for height, width, taps in levels:
        images.append(Level(first, height, width, taps))
        first += height * width
    g = SumGeometry(batch, groups, channels, (queries, 1), tuple(images))
    rng = np.random.default_rng(seed)
    return _case(g, (first, 1), rng.uniform(-0.2, 1.2, offset_shape(g)), rng)


def grid(
    kernel: tuple[int, int] = (5, 3),
    *,
    scale: float = 0.7,
    remove_center: bool = True,
    batch: int = 2,
    groups: int = 3,
    channels: int = 8,
    seed: int = 0,
) -> SumCase:
    """A DCNv3 with other sizes along each axis; offsets reach beyond the image."""
    levels = (Level(0, 8, 11, kernel[0] * kernel[1] - remove_center),)
    scaled = ScaledGrid(kernel, (2, 3), (1, 2), (1, 2), scale, remove_center)
    g = SumGeometry(batch, groups, channels, (4, 5), levels, scaled)
    rng = np.random.default_rng(seed)
    return _case(g, (8, 11), 2 * rng.standard_normal(offset_shape(g)), rng)


def _case(g: SumGeometry, size: tuple[int, int], offset: Array, rng: Any) -> SumCase:
    shapes = {
        "input": (g.batch, *size, g.groups, g.channels),
        "mask": offset.shape[:-1],
        "grad_output": output_shape(g),
    }
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return SumCase(g, arrays | {"offset": offset})


def offset_shape(g: SumGeometry) -> tuple[int, ...]:
    """(N, OH, OW, G, P, 2)."""
    return (g.batch, *g.out, g.groups, g.taps, 2)


def output_shape(g: SumGeometry) -> tuple[int, ...]:
    """(N, OH, OW, G, D)."""
    return (g.batch, *g.out, g.groups, g.channels)


# ---- plain loops ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corner:
    """A pixel in bounds around a sample: weight, and derivatives of the weight by the offset."""

    pixel: int
    weight: float
    slopes: tuple[float, float]


def corners(case: SumCase, at: tuple[int, ...], tap: int, rule: str) -> list[Corner]:
    """The corners of a sample at (n, row, col, group); one of NaN for a coordinate that is NaN."""
    n, row, col, group = at
    aim = case.g.tap_list[tap]
    level = case.g.levels[aim.level]
    size = (level.width, level.height)
    offset = [float(value) for value in case.offset[n, row, col, group, tap]]
    c = [
        aim.base[a] + case.g.stride[a] * (col, row)[a] + aim.shift[a] + aim.factor[a] * offset[a]
        for a in (0, 1)
    ]
    if any(map(np.isnan, c)):
        return [Corner(level.first, np.nan, (np.nan, np.nan))]
    if not all(-1 <= c[a] < size[a] for a in (0, 1)):
        return []
    outside = -1 in c
    found = []
    for x, y in product(*((int(np.floor(v)), int(np.floor(v)) + 1) for v in c)):
        if 0 <= x < size[0] and 0 <= y < size[1]:
            weights = 1 - abs(c[0] - x), 1 - abs(c[1] - y)
            signs = (1 if x > np.floor(c[0]) else -1), (1 if y > np.floor(c[1]) else -1)
            slopes = (
                signs[0] * weights[1] * aim.factor[0],
                signs[1] * weights[0] * aim.factor[1],
            )
            found.append(
                Corner(
                    level.first + y * level.width + x,
                    0.0 if outside else weights[0] * weights[1],
                    (0.0, 0.0) if outside and rule == "zero" else slopes,
                )
            )
    return found


def samples(case: SumCase) -> Iterator[tuple[tuple[int, ...], int]]:
    """Every ((n, row, col, group), tap)."""
    *shape, taps = case.mask.shape
    for at in np.ndindex(*shape):
        for tap in range(taps):
            yield at, tap


def expected(case: SumCase, rule: str = "one_sided") -> Arrays:
    """Output and gradients in float64, sample by sample."""
    g = case.g
    images = np.asarray(case.input, float).reshape(g.batch, -1, g.groups, g.channels)
    results = {"output": np.zeros(output_shape(g)), "input": np.zeros(images.shape)}
    results |= {name: np.zeros(getattr(case, name).shape) for name in ("offset", "mask")}
    for at, tap in samples(case):
        n, group = at[0], at[3]
        grad, mask = case.grad_output[at].astype(float), float(case.mask[(*at, tap)])
        for corner in corners(case, at, tap, rule):
            pixel = images[n, corner.pixel, group]
            if corner.weight != 0:
                results["output"][at] += mask * corner.weight * pixel
                results["input"][n, corner.pixel, group] += mask * corner.weight * grad
                results["mask"][(*at, tap)] += corner.weight * (grad @ pixel)
            for a in (0, 1):
                slope = mask * corner.slopes[a] * (grad @ pixel)
                results["offset"][(*at, tap, a)] += slope
    results["input"] = results["input"].reshape(case.input.shape)
    return results


# ---- the GPU engine ------------------------------------------------------------------------------


def put(device: TestDevice, case: SumCase) -> Operands:
    """The operands on a device."""
    return Operands(
        *(device.put(getattr(case, n)) for n in ("input", "offset")),
        None,
        None,
        device.put(case.mask),
    )


def output_of(device: TestDevice, case: SumCase, options: Options | None = None) -> Array:
    """The engine's output."""
    output = device.empty(output_shape(case.g), case.input.dtype.name)
    run: Any = gpu.run
    run(gpu.sums_forward, device, put(device, case), case.g, options or Options(), output)
    return device.read(output)
