"""Structs of sizes that several kernels have in common.

Quotients of sizes are computed here, and so are multipliers for the remaining divisions, so that no
thread divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cudeform.geometry import Geometry
from cudeform.gpu.device_api.structs import (
    Divisor,
    DivisorPerAxis,
    Flag,
    Index,
    Int,
    PerAxis,
    Strides,
    Struct,
    divisor,
)


@dataclass(frozen=True)
class Problem(Struct):
    """Sizes of the convolution, and the convention for its gradient."""

    channels: Int
    size: PerAxis
    out_channels: Int
    out: PerAxis
    kernel: PerAxis
    stride: PerAxis
    pad_begin: PerAxis
    dilation: PerAxis
    groups: Int
    offset_groups: Int
    zero_boundary_grad: Flag  # whether the option boundary_grad is "zero"
    taps: Int
    group_channels: Int  # number of input channels of a group
    offset_channels: Int  # number of input channels of an offset group
    spans_groups: Flag  # whether an offset group has channels of several groups
    by_offset_groups: Divisor
    by_taps: Divisor
    by_kernel: DivisorPerAxis
    by_out: DivisorPerAxis
    by_group_channels: Divisor
    by_offset_channels: Divisor

    @staticmethod
    @lru_cache
    def of(g: Geometry, zero_boundary_grad: bool) -> Problem:
        """The sizes of a call."""
        group_channels, offset_channels = g.channels // g.groups, g.channels // g.offset_groups
        return Problem(
            channels=g.channels,
            size=g.size,
            out_channels=g.out_channels,
            out=g.out,
            kernel=g.kernel,
            stride=g.stride,
            pad_begin=g.pad_begin,
            dilation=g.dilation,
            groups=g.groups,
            offset_groups=g.offset_groups,
            zero_boundary_grad=zero_boundary_grad,
            taps=g.taps,
            group_channels=group_channels,
            offset_channels=offset_channels,
            spans_groups=offset_channels > 0 and group_channels % offset_channels != 0,
            by_offset_groups=divisor(g.offset_groups),
            by_taps=divisor(g.taps),
            by_kernel=tuple(map(divisor, g.kernel)),
            by_out=tuple(map(divisor, g.out)),
            by_group_channels=divisor(group_channels),
            by_offset_channels=divisor(offset_channels),
        )


@dataclass(frozen=True)
class Chunk(Struct):
    """The images and output rows that a launch covers; see ``chunks`` for what a row is."""

    first_image: Int
    images: Int
    first_row: Int
    rows: Int
    positions: Index  # number of output positions
    by_rows: Divisor


@dataclass(frozen=True)
class Sampling(Struct):
    """The parameters of a kernel that samples the input."""

    problem: Problem
    chunk: Chunk
    input: Strides  # strides of channels-last images
    offset: Strides
    mask: Strides
    samples: Index  # positions * taps * offset_groups
    lanes: Int  # number of adjacent threads that share a sample


@dataclass(frozen=True)
class ColumnLayout(Struct):
    """The columns: (groups, positions, ld_columns)."""

    positions: Index
    ld_columns: Index


@dataclass(frozen=True)
class TangentStrides(Struct):
    """Strides of tangents."""

    input: Strides
    offset: Strides
    mask: Strides


@dataclass(frozen=True)
class KLayout(Struct):
    """The order in which the fused kernel visits taps and channels."""

    taps: Int  # number of taps of a run of channels, or of all runs if they are concatenated
    taps_per_batch: Int  # number of taps whose samples are recorded at a time
    channel_blocks: Int  # number of channel blocks of a run
