"""Sums of samples on the CPU: cases in the canonical form, and what the engine makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from cudeform import cpu
from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.options import Options
from cudeform.sums_geometry import Level, ScaledGrid, SumGeometry

Array = Any

DEFAULT = Options()

UNEVEN_GRID = ScaledGrid((3, 5), (2, 1), (1, 2), (1, 2), 0.7, remove_center=True)


def dtype_of(name: str) -> Any:
    """A dtype by its name, bfloat16 too."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


@dataclass(frozen=True)
class SumCase:
    """A call: its sizes and its operands."""

    g: SumGeometry
    input: Array
    offset: Array
    mask: Array

    @property
    def operands(self) -> Operands:
        """The operands as the engine takes them."""
        return Operands(self.input, self.offset, None, mask=self.mask)

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        """The operands as the reference takes them, in float64."""
        return tuple(np.asarray(each, np.float64) for each in (self.input, self.offset, self.mask))

    def cast(self, dtype: str, sample_dtype: str | None = None) -> SumCase:
        """The same case in other dtypes: of input, and of offset and mask."""
        of_samples = dtype_of(sample_dtype or dtype)
        return SumCase(
            self.g,
            self.input.astype(dtype_of(dtype)),
            self.offset.astype(of_samples),
            self.mask.astype(of_samples),
        )

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.g.batch, *self.g.out, self.g.groups, self.g.channels

    def like_output(self, seed: int = 9) -> Array:
        """Random numbers in the shape and dtype of the output."""
        values = np.random.default_rng(seed).standard_normal(self.output_shape)
        return values.astype(self.input.dtype)


def levels_of(sizes: tuple[tuple[int, int], ...], taps: tuple[int, ...]) -> tuple[Level, ...]:
    """Levels (height, width), one behind the other."""
    first, levels = 0, []
    for (height, width), count in zip(sizes, taps, strict=True):
        levels.append(Level(first, height, width, count))
        first += height * width
    return tuple(levels)


def attention(
    sizes: tuple[tuple[int, int], ...] = ((5, 7), (3, 2), (1, 4), (1, 1)),
    taps: tuple[int, ...] = (4, 3, 2, 1),
    *,
    batch: int = 2,
    queries: int = 7,
    groups: int = 3,
    channels: int = 8,
    dtype: str = "float64",
    seed: int = 0,
) -> SumCase:
    """An attention whose locations reach out of the levels."""
    g = SumGeometry(batch, groups, channels, (queries, 1), levels_of(sizes, taps))
    rng = np.random.default_rng(seed)
    case = SumCase(
        g,
        rng.standard_normal((batch, g.pixels, 1, groups, channels)),
        rng.uniform(-0.3, 1.3, (batch, queries, 1, groups, g.taps, 2)),
        rng.random((batch, queries, 1, groups, g.taps)),
    )
    return case.cast(dtype)


def dcnv3(
    grid: ScaledGrid = UNEVEN_GRID,
    *,
    size: tuple[int, int] = (6, 9),
    out: tuple[int, int] = (4, 3),
    batch: int = 2,
    groups: int = 2,
    channels: int = 5,
    dtype: str = "float64",
    seed: int = 0,
) -> SumCase:
    """A DCNv3 with different numbers along x and y."""
    g = SumGeometry(batch, groups, channels, out, (Level(0, *size, grid.taps),), grid)
    rng = np.random.default_rng(seed)
    case = SumCase(
        g,
        rng.standard_normal((batch, *size, groups, channels)),
        rng.standard_normal((batch, *out, groups, g.taps, 2)) * 1.5,
        rng.random((batch, *out, groups, g.taps)),
    )
    return case.cast(dtype)


def packed(case: SumCase, extra: int = 5) -> SumCase:
    """The same with offsets and masks as views of one array, as DCNv4 has them."""
    g = case.g
    rows = np.full((g.batch, *g.out, g.groups * 3 * g.taps + extra), np.nan, case.offset.dtype)
    offset, mask = packed_views(rows, g)
    offset[...], mask[...] = case.offset, case.mask
    return replace(case, offset=offset, mask=mask)


def packed_views(rows: Array, g: SumGeometry) -> tuple[Array, Array]:
    """Offset and mask in the rows of DCNv4."""
    groups = rows[..., : g.groups * 3 * g.taps].reshape(g.batch, *g.out, g.groups, 3 * g.taps)
    offset = groups[..., : 2 * g.taps].reshape(*groups.shape[:-1], g.taps, 2)
    return offset, groups[..., 2 * g.taps :]


def forward(case: SumCase, options: Options = DEFAULT) -> Array:
    """The output."""
    output = np.full(case.output_shape, np.nan, case.input.dtype)
    cpu.sums_forward(case.operands, case.g, options, output)
    return output


def backward(
    case: SumCase,
    grad_output: Array,
    options: Options = DEFAULT,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Array, Array, Array]:
    """The gradients of input, offset and mask."""
    arrays = case.input, case.offset, case.mask
    grads = tuple(
        np.full(array.shape, np.nan, array.dtype) if need else None
        for array, need in zip(arrays, needs, strict=True)
    )
    into = Gradients(grads[0], grads[1], mask=grads[2])
    cpu.sums_backward(case.operands, case.g, options, grad_output, into)
    return grads


Vectors = tuple[Array | None, Array | None, Array | None]


def tangents_of(case: SumCase, seed: int = 5) -> tuple[Array, Array, Array]:
    """Random tangents of input, offset and mask."""
    rng = np.random.default_rng(seed)
    arrays = case.input, case.offset, case.mask
    return tuple(rng.standard_normal(each.shape).astype(each.dtype) for each in arrays)


def jvp(case: SumCase, tangents: Vectors, options: Options = DEFAULT) -> Array:
    """The tangent of the output."""
    result = np.full(case.output_shape, np.nan, case.input.dtype)
    along = Tangents(tangents[0], tangents[1], mask=tangents[2])
    cpu.sums_jvp(case.operands, case.g, options, along, result)
    return result


def double_backward(
    case: SumCase, grad_output: Array, cotangents: Vectors, options: Options = DEFAULT
) -> tuple[Array, Array, Array, Array]:
    """The gradients of grad_output, input, offset and mask."""
    arrays = grad_output, case.input, case.offset, case.mask
    made = [np.full(each.shape, np.nan, each.dtype) for each in arrays]
    results = DoubleGradients(made[0], made[1], made[2], mask=made[3])
    along = Tangents(cotangents[0], cotangents[1], mask=cotangents[2])
    cpu.sums_double_backward(case.operands, case.g, options, grad_output, along, results)
    return tuple(made)
