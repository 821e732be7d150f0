"""Every kernel in every variant and for every architecture, and selections of them to compile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from typing import Any

from cudeform.gpu.algorithms import fused
from cudeform.gpu.algorithms.direct import MAX_PRODUCT
from cudeform.gpu.algorithms.fused_tiling import MAX_N, STAGE_VECS, tile_shapes
from cudeform.gpu.device_api.kernel_source import (
    FILES,
    ITEMSIZE,
    SCALARS,
    GemmTile,
    Variant,
    adds_atomically,
    is_sum,
    read,
    widest,
)
from cudeform.gpu.device_api.params import PARAMS
from cudeform.gpu.device_api.structs import StructType, depends_on_axes
from cudeform.gpu.variants import atomic_width

# Kernels of the fused forward.
FUSED = ("pack_weight_fused", "deform_fused", "reduce_split_k")


@dataclass(frozen=True)
class Job:
    """A kernel to compile."""

    name: str
    variant: Variant
    arch: int

    @property
    def key(self) -> str:
        """The compile-time parameters in words: the key of the record."""
        v = self.variant
        words = [v.dtype, f"{v.index_bits} bits", f"{v.vector} at a time"]
        words += [f"coordinates {v.coord_dtype}"] if v.coord_dtype not in (None, v.dtype) else []
        words += [f"{v.axes} {'axis' if v.axes == 1 else 'axes'}"] if v.axes != 2 else []
        words += [f"groups {v.group_in} to {v.group_out}"] if v.group_in else []
        words += [f"{v.atomic_width} added at a time"] if v.atomic_width > 1 else []
        if v.tile:
            words.append(f"tiles of {v.tile.m} by {v.tile.n}")
            words += [f"{v.tile.products} products"] if v.tile.products > 1 else []
            odd = v.tile.channel_block != STAGE_VECS * widest(v.dtype)
            words += [f"channel blocks of {v.tile.channel_block}"] if odd else []
        return ", ".join(words)

    @property
    def typical(self) -> bool:
        """Whether the record has this job: for sm_90 all with two axes, a selection of others.

        The selection leaves out small tiles, 64-bit indices, small groups, and atomic additions of
        single numbers if vectors can be added: these variants differ little from the others.
        """
        v = self.variant
        if v.axes != 2:
            return self._typical_of_other_axes
        if self.arch == 90:
            return True
        if v.tile:  # the largest take the most registers
            return self.name == "deform_fused" and v.dtype != "bfloat16" and v.tile.n >= 128
        if v.group_in * v.group_out > 1 or v.atomic_width < _most_atomic_width(
            self.name, v, self.arch
        ):
            return False
        return v.index_bits == 32 or (self.arch in (70, 75) and not v.group_in)

    @property
    def _typical_of_other_axes(self) -> bool:
        """Three axes take the most registers; with one axis, kernels are smaller than with two."""
        v = self.variant
        is_narrow, in_groups = v.index_bits == 32, v.group_in * v.group_out > 1
        if self.arch == 90 and v.axes == 3:
            return not in_groups or (is_narrow and v.group_out == MAX_PRODUCT)
        among = (90,) if v.axes == 1 else (75, 100)
        single = _mentions(self.name, "VECTOR") and v.vector == 1
        return self.arch in among and is_narrow and not in_groups and not single


def jobs(among: Sequence[int]) -> Iterator[Job]:
    """Every kernel in every variant that the engine may use; first those of two axes."""
    for axes in (2, 1, 3):
        yield from _jobs_of_axes(axes, among)


def _jobs_of_axes(axes: int, among: Sequence[int]) -> Iterator[Job]:
    for name, dtype in product(FILES, SCALARS):
        struct: StructType = PARAMS[name]
        if axes != 2 and (name in FUSED or is_sum(name) or not depends_on_axes(struct)):
            continue
        if dtype != "float32" and not _mentions(name, "scalar_t", "acc_t"):
            continue
        if name in FUSED:
            yield from _fused_jobs(name, dtype, among)
            continue
        for vector, (group_in, group_out), bits, coord_dtype in product(
            sorted({1, widest(dtype)}) if _mentions(name, "VECTOR") else [1],
            _small_groups() if _mentions(name, "GROUP_IN") else [(0, 0)],
            (32, 64),
            sorted({dtype, "float64" if dtype == "float64" else "float32"})
            if is_sum(name)
            else [None],
        ):
            if group_in and vector > 1 and vector % group_in:
                continue  # the engine never uses it
            variant = Variant(
                dtype, bits, vector, group_in, group_out, axes=axes, coord_dtype=coord_dtype
            )
            for arch in among:
                for width in sorted({1, _most_atomic_width(name, variant, arch)}):
                    yield Job(name, replace(variant, atomic_width=width), arch)


def _fused_jobs(name: str, dtype: str, among: Sequence[int]) -> Iterator[Job]:
    if dtype not in fused.DTYPES:
        return
    for tile in _tiles(dtype) if "fused/gemm_tile.cuh" in FILES[name] else [None]:
        variant = Variant(dtype, 32, widest(dtype), tile=tile)
        yield from (Job(name, variant, a) for a in among if a >= fused.MIN_CAPABILITY)


def _tiles(dtype: str) -> Iterator[GemmTile]:
    """Every tile with channel blocks of one stage, and the largest with other blocks."""
    widths = [n for n in (32, 64, 128, 256) if n <= MAX_N[ITEMSIZE[dtype]]]
    chunk = STAGE_VECS * widest(dtype)
    for products in (1, 3) if dtype == "float32" else (1,):
        for n in widths:
            yield from tile_shapes(n, chunk, products)
        yield tile_shapes(widths[-1], 5 * widest(dtype), products)[0]


def _most_atomic_width(name: str, variant: Variant, arch: int) -> int:
    """Elements that one atomic addition takes if nothing else is forced."""
    adds = adds_atomically(name)
    return atomic_width(variant.dtype, variant.vector, arch) if adds else 1


def _small_groups() -> list[tuple[int, int]]:
    sizes = range(1, MAX_PRODUCT + 1)
    return [(i, o) for i, o in product(sizes, sizes) if i * o <= MAX_PRODUCT]


@cache
def _mentions(name: str, *words: str) -> bool:
    text = "".join(map(read, FILES[name]))
    return any(re.search(rf"\b{word}\b", text) for word in words)


def pairwise(among: Iterable[Job]) -> list[Job]:
    """A part of the jobs that has, for each kernel, every pair of values of two parameters.

    It has less than half of the typical jobs.
    """
    forward = _with_a_new_pair(among)
    return _with_a_new_pair(reversed(forward))[::-1]  # backward, because many came too early


def _with_a_new_pair(among: Iterable[Job]) -> list[Job]:
    """The jobs with a pair of values that no job before them has."""
    seen: set[Any] = set()
    chosen = []
    for job in among:
        v = job.variant
        values = {
            **{name: getattr(v, name) for name in ("dtype", "coord_dtype", "index_bits")},
            "group": (v.group_in, v.group_out),
            "vectors": v.vector > 1,
            "vector additions": v.atomic_width > 1,
            "tile": v.tile,
            "axes": v.axes,
            "arch": job.arch,
        }
        pairs = {(job.name, *pair) for pair in combinations(values.items(), 2)}
        if not pairs <= seen:
            chosen.append(job)
            seen |= pairs
    return chosen
