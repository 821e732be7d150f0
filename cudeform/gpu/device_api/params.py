"""The struct that every kernel takes: one definition, written out in C and filled by NumPy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.geometry import Geometry

STRIDES = ("n", "c", "h", "w")

# Fields of struct Launch and their C types. index_t is 32 or 64 bits wide.
LAUNCH = {
    "g": "Geometry",
    "input": "Strides",
    "offset": "Strides",
    "mask": "Strides",
    "input_tangent": "Strides",
    "offset_tangent": "Strides",
    "mask_tangent": "Strides",
    "weight": "Strides",
    "source": "Strides",  # of the array that channels_last copies
    "output": "Strides",
    "bias_stride": "index_t",
    "positions": "index_t",  # output positions of the launch
    "samples": "index_t",  # positions * taps * offset_groups
    "cells": "index_t",  # images * offset_groups * (H + 1) * (W + 1)
    "ld_columns": "index_t",  # elements of a row of columns
    "split_size": "index_t",  # elements of the partial output of one split
    "first_image": "int",
    "images": "int",
    "first_row": "int",
    "rows": "int",
    "size_c": "int",  # of the images that a layout kernel copies
    "size_h": "int",
    "size_w": "int",
    "first_h": "int",
    "lanes": "int",  # neighbouring threads that share a sample
    "write_columns": "int",  # whether the columns replace their gradient
    "accumulate": "int",
    "zero_boundary_grad": "int",
    "weights_are_tangents": "int",  # of count_cells: tangents of the corner weights
    "splits": "int",  # of the positions, or of the stages, summed separately
    "tile_w": "int",  # columns of a rectangle of positions; 0: a run of positions
    "k_taps": "int",  # of all runs of channels that the fused kernel goes through as one
    "taps_per_batch": "int",  # of these, whose samples are recorded at a time
    "channel_blocks": "int",  # of a run
    "stages": "int",  # of a tile of the fused kernel
    "split_stages": "int",  # of a split; the last may have fewer
    # What follows from the rest: see ``_derived``.
    "taps": "int",
    "group_channels": "int",  # of a group
    "offset_channels": "int",  # of an offset group
    "spans_groups": "int",  # an offset group has channels of several groups
    "by_offset_groups": "Divisor",
    "by_taps": "Divisor",
    "by_kernel_w": "Divisor",
    "by_out_w": "Divisor",
    "by_rows": "Divisor",
    "by_group_channels": "Divisor",
    "by_offset_channels": "Divisor",
}


@dataclass(frozen=True)
class Layout:
    """The structs for one index width."""

    index_bits: int

    @property
    def index(self) -> np.dtype[Any]:
        """The dtype of index_t."""
        return np.dtype(np.int32 if self.index_bits == 32 else np.int64)

    @property
    def launch(self) -> np.dtype[Any]:
        """The dtype of struct Launch."""
        return _launch_dtype(self.index)

    def text(self) -> str:
        """The structs in C."""
        index = {4: "int", 8: "long long"}[self.index.itemsize]
        geometry = " ".join(f"int {field.name};" for field in fields(Geometry))
        launch = "\n".join(f"    {kind} {name};" for name, kind in LAUNCH.items())
        return (
            f"typedef {index} index_t;\n"
            f"struct Geometry {{ {geometry} }};\n"
            f"struct Strides {{ index_t {', '.join(STRIDES)}; }};\n"
            "struct Divisor { int by; unsigned int multiplier; int shift; };\n"
            f"struct Launch {{\n{launch}\n}};\n"
        )

    def fill(self, geometry: Geometry, values: dict[str, Any]) -> NDArray[Any]:
        """One struct Launch; fields that ``values`` does not name are 0."""
        struct = np.zeros(1, self.launch)
        struct["g"] = tuple(vars(geometry).values())
        for name, value in (_derived(geometry, values.get("rows", 0)) | values).items():
            struct[name] = value
        return struct


@lru_cache
def divisor(by: int) -> tuple[int, int, int]:
    """A struct Divisor: ``n // by == 2 * n * multiplier >> 32 + shift`` for all 0 <= n < 2**31."""
    shift = max(0, by - 1).bit_length()
    return by, -(-(2 ** (31 + shift)) // by) if by else 0, shift


@lru_cache
def _derived(g: Geometry, rows: int) -> dict[str, Any]:
    """Fields that follow from the sizes, computed here so that no thread divides for them."""
    group_channels, offset_channels = g.channels // g.groups, g.channels // g.offset_groups
    return {
        "taps": g.taps,
        "group_channels": group_channels,
        "offset_channels": offset_channels,
        "spans_groups": offset_channels > 0 and group_channels % offset_channels != 0,
        "by_offset_groups": divisor(g.offset_groups),
        "by_taps": divisor(g.taps),
        "by_kernel_w": divisor(g.kernel_w),
        "by_out_w": divisor(g.out_w),
        "by_rows": divisor(rows),
        "by_group_channels": divisor(group_channels),
        "by_offset_channels": divisor(offset_channels),
    }


@cache
def _launch_dtype(index: np.dtype[Any]) -> np.dtype[Any]:
    geometry = np.dtype([(field.name, np.int32) for field in fields(Geometry)], align=True)
    strides = np.dtype([(name, index) for name in STRIDES], align=True)
    divisor = np.dtype(
        [("by", np.int32), ("multiplier", np.uint32), ("shift", np.int32)], align=True
    )
    kinds = {
        "Geometry": geometry,
        "Strides": strides,
        "Divisor": divisor,
        "index_t": index,
        "int": np.dtype(np.int32),
    }
    return np.dtype([(name, kinds[kind]) for name, kind in LAUNCH.items()], align=True)
