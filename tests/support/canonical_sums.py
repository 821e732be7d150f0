"""Cases of sums of samples for both engines, in the canonical form of ``sums_geometry.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cases import DTYPES
from numpy.typing import NDArray
from support import canonical_sums_reference as reference

from cudeform.arrays import Operands
from cudeform.sums_geometry import Level, ScaledGrid, SumGeometry

Array = NDArray[Any]
Arrays = dict[str, Array]

OPERANDS = ("input", "offset", "mask")
RESULTS = ("grad_output", *OPERANDS)

PLAIN_GRID = ScaledGrid((3, 3), (1, 1), (1, 1), (1, 1), 1.0, remove_center=False)
UNEVEN_GRID = ScaledGrid((3, 5), (2, 1), (1, 2), (1, 2), 0.7, remove_center=True)


def dtype_of(name: str) -> Any:
    """A dtype by its name; skips the test if that is bfloat16 and ml_dtypes is not installed."""
    if name not in DTYPES:
        pytest.skip("needs ml_dtypes")
    return DTYPES[name]


@dataclass(frozen=True)
class CanonicalSum:
    """A call: its sizes, its operands and a gradient of its output."""

    g: SumGeometry
    input: Array
    offset: Array
    mask: Array
    grad_output: Array

    @property
    def operands(self) -> Operands:
        """The operands as the engine takes them."""
        return Operands(self.input, self.offset, None, mask=self.mask)

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        """The operands in the order of ``OPERANDS``."""
        return self.input, self.offset, self.mask

    def cast(self, dtype: str, sample_dtype: str | None = None) -> CanonicalSum:
        """The same numbers in other dtypes: of input and gradient, and of offset and mask."""
        samples = dict.fromkeys(("offset", "mask"), dtype_of(sample_dtype or dtype))
        arrays = {n: getattr(self, n).astype(samples.get(n, dtype_of(dtype))) for n in RESULTS}
        return replace(self, **arrays)


def levels_of(sizes: Sequence[tuple[int, int, int]]) -> tuple[Level, ...]:
    """Levels of (height, width, taps), one behind the other."""
    first, levels = 0, []
    for height, width, taps in sizes:
        levels.append(Level(first, height, width, taps))
        first += height * width
    return tuple(levels)


def attention(
    levels: Sequence[tuple[int, int, int]] = ((5, 7, 4), (3, 2, 3), (1, 4, 2), (1, 1, 1)),
    *,
    batch: int = 2,
    queries: int = 7,
    groups: int = 3,
    channels: int = 8,
    dtype: str = "float64",
) -> CanonicalSum:
    """An attention over levels of (height, width, taps); locations reach beyond them."""
    g = SumGeometry(batch, groups, channels, (queries, 1), levels_of(levels))
    rng = np.random.default_rng(0)
    offset = rng.uniform(-0.3, 1.3, (*sample_shape(g), 2))
    return _case(g, (g.pixels, 1), offset, rng).cast(dtype)


def dcnv3(
    grid: ScaledGrid = UNEVEN_GRID,
    *,
    size: tuple[int, int] = (6, 9),
    out: tuple[int, int] = (4, 3),
    batch: int = 2,
    groups: int = 2,
    channels: int = 5,
    dtype: str = "float64",
) -> CanonicalSum:
    """A DCNv3 with other numbers along x than along y; offsets reach beyond the image."""
    g = SumGeometry(batch, groups, channels, out, (Level(0, *size, grid.taps),), grid)
    rng = np.random.default_rng(0)
    offset = 1.5 * rng.standard_normal((*sample_shape(g), 2))
    return _case(g, size, offset, rng).cast(dtype)


def _case(g: SumGeometry, size: tuple[int, int], offset: Array, rng: Any) -> CanonicalSum:
    return CanonicalSum(
        g,
        input=rng.standard_normal((g.batch, *size, g.groups, g.channels)),
        offset=offset,
        mask=rng.standard_normal(sample_shape(g)),
        grad_output=rng.standard_normal(output_shape(g)),
    )


def sample_shape(g: SumGeometry) -> tuple[int, ...]:
    """(N, OH, OW, G, P)."""
    return g.batch, *g.out, g.groups, g.taps


def output_shape(g: SumGeometry) -> tuple[int, ...]:
    """(N, OH, OW, G, D)."""
    return g.batch, *g.out, g.groups, g.channels


def packed(case: CanonicalSum, extra: int = 5) -> CanonicalSum:
    """The same with offsets and masks as views of one array, as DCNv4 has them."""
    g = case.g
    rows = np.full((g.batch, *g.out, g.groups * 3 * g.taps + extra), np.nan, case.offset.dtype)
    offset, mask = packed_views(rows, g)
    offset[...], mask[...] = case.offset, case.mask
    return replace(case, offset=offset, mask=mask)


def packed_views(rows: Array, g: SumGeometry) -> tuple[Array, Array]:
    """Offset and mask in the rows of DCNv4: for each group all pairs, then all masks."""
    groups = rows[..., : g.groups * 3 * g.taps].reshape(g.batch, *g.out, g.groups, 3 * g.taps)
    offset = groups[..., : 2 * g.taps].reshape(*groups.shape[:-1], g.taps, 2)
    return offset, groups[..., 2 * g.taps :]


def directions(case: CanonicalSum, names: Sequence[str] = OPERANDS) -> Arrays:
    """Random tangents of some operands."""
    rng = np.random.default_rng(1)
    arrays = {name: getattr(case, name) for name in names}
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in arrays.items()}


def expected(case: CanonicalSum, rule: str = "one_sided") -> Arrays:
    """Output and gradients in float64, by plain loops."""
    grads = reference.backward(case.g, *case.arrays, case.grad_output, zero=rule == "zero")
    output = reference.forward(case.g, *case.arrays)
    return {"output": output, **dict(zip(OPERANDS, grads, strict=True))}


def assert_close(got: Any, wanted: Any, error: float, what: str = "") -> None:
    """Check for an error relative to the largest value."""
    got, wanted = np.asarray(got, float), np.asarray(wanted, float)
    atol = error * max(1e-30, abs(wanted).max(initial=0))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol, err_msg=what)
