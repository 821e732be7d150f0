"""What each kernel takes besides pointers: one struct by value, with what its launch needs.

``PARAMS`` has the struct of each kernel. The parts that several of them share are sizes of the
convolution (``Problem``), what one launch covers (``Chunk``), and what kernels need that sample the
input (``Sampling``). Sizes that kernels would have to divide for, and multipliers for divisions
that remain, are computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cudeform.geometry import Geometry
from cudeform.gpu.device_api.structs import Divisor, Flag, Index, Int, Strides, Struct, divisor

# ---- shared parts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem(Struct):
    """Sizes of the convolution, and its convention."""

    channels: Int
    in_h: Int
    in_w: Int
    out_channels: Int
    out_h: Int
    out_w: Int
    kernel_h: Int
    kernel_w: Int
    stride_h: Int
    stride_w: Int
    pad_top: Int
    pad_left: Int
    dilation_h: Int
    dilation_w: Int
    groups: Int
    offset_groups: Int
    zero_boundary_grad: Flag  # the option boundary_grad is "zero"
    taps: Int
    group_channels: Int  # input channels of a group
    offset_channels: Int  # input channels of an offset group
    spans_groups: Flag  # an offset group has channels of several groups
    by_offset_groups: Divisor
    by_taps: Divisor
    by_kernel_w: Divisor
    by_out_w: Divisor
    by_group_channels: Divisor
    by_offset_channels: Divisor

    @staticmethod
    @lru_cache
    def of(g: Geometry, zero_boundary_grad: bool) -> Problem:
        """The problem of a call."""
        group_channels, offset_channels = g.channels // g.groups, g.channels // g.offset_groups
        return Problem(
            channels=g.channels,
            in_h=g.in_h,
            in_w=g.in_w,
            out_channels=g.out_channels,
            out_h=g.out_h,
            out_w=g.out_w,
            kernel_h=g.kernel_h,
            kernel_w=g.kernel_w,
            stride_h=g.stride_h,
            stride_w=g.stride_w,
            pad_top=g.pad_top,
            pad_left=g.pad_left,
            dilation_h=g.dilation_h,
            dilation_w=g.dilation_w,
            groups=g.groups,
            offset_groups=g.offset_groups,
            zero_boundary_grad=zero_boundary_grad,
            taps=g.taps,
            group_channels=group_channels,
            offset_channels=offset_channels,
            spans_groups=offset_channels > 0 and group_channels % offset_channels != 0,
            by_offset_groups=divisor(g.offset_groups),
            by_taps=divisor(g.taps),
            by_kernel_w=divisor(g.kernel_w),
            by_out_w=divisor(g.out_w),
            by_group_channels=divisor(group_channels),
            by_offset_channels=divisor(offset_channels),
        )


@dataclass(frozen=True)
class Chunk(Struct):
    """The images and output rows that a launch covers."""

    first_image: Int
    images: Int
    first_row: Int
    rows: Int
    positions: Index  # output positions
    by_rows: Divisor


@dataclass(frozen=True)
class Sampling(Struct):
    """What kernels need that sample the input."""

    problem: Problem
    chunk: Chunk
    input: Strides  # of channels-last images
    offset: Strides
    mask: Strides
    samples: Index  # positions * taps * offset_groups
    lanes: Int  # neighbouring threads that share a sample


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
    """The order in which the fused kernel goes through taps and channels."""

    taps: Int  # of one run of channels, or of all runs if they are concatenated
    taps_per_batch: Int  # taps whose samples are recorded at a time
    channel_blocks: Int  # of a run


# ---- layout/ -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelsLast(Struct):
    """Some rows of some images."""

    source: Strides
    first_image: Int
    images: Int
    channels: Int
    first_row: Int
    height: Int  # rows that are copied
    width: Int


@dataclass(frozen=True)
class ChannelsFirst(Struct):
    """Some images."""

    first_image: Int
    images: Int
    channels: Int
    height: Int
    width: Int


@dataclass(frozen=True)
class PackWeight(Struct):
    """A weight, and a row of the columns."""

    problem: Problem
    weight: Strides
    bias_stride: Index
    ld_columns: Index


@dataclass(frozen=True)
class UnpackWeight(Struct):
    """A row of the columns."""

    problem: Problem
    ld_columns: Index


# ---- im2col/ and backward/ -----------------------------------------------------------------------


@dataclass(frozen=True)
class Im2col(Struct):
    """Columns of a chunk."""

    sampling: Sampling
    layout: ColumnLayout


@dataclass(frozen=True)
class Im2colJvp(Struct):
    """Tangent of the columns of a chunk."""

    sampling: Sampling
    layout: ColumnLayout
    tangents: TangentStrides


@dataclass(frozen=True)
class Backward(Struct):
    """Gradients from those of the columns of a chunk."""

    sampling: Sampling
    layout: ColumnLayout
    write_columns: Flag  # replace the gradient of the columns by the columns


@dataclass(frozen=True)
class DoubleBackward(Struct):
    """Gradients of gradients from those of the columns of a chunk."""

    sampling: Sampling
    layout: ColumnLayout
    tangents: TangentStrides
    write_columns: Flag  # replace the gradient of the columns by the tangent of the columns


# ---- grad_input_sorted/ --------------------------------------------------------------------------


@dataclass(frozen=True)
class CountCells(Struct):
    """Samples of a chunk; the strides of the input are unused."""

    sampling: Sampling
    tangents: TangentStrides
    weights_are_tangents: Flag  # store the tangents of the corner weights


@dataclass(frozen=True)
class ScanCells(Struct):
    """Number of cells."""

    cells: Index


@dataclass(frozen=True)
class FillCells(Struct):
    """Number of samples."""

    samples: Index


@dataclass(frozen=True)
class SortCells(Struct):
    """Number of samples."""

    samples: Index


@dataclass(frozen=True)
class GatherGradInput(Struct):
    """Images of a chunk, and its columns."""

    problem: Problem
    layout: ColumnLayout
    images: Int
    lanes: Int  # neighbouring threads that share a pixel
    accumulate: Flag


# ---- direct/ -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direct(Struct):
    """Output of a chunk; lanes share a position."""

    sampling: Sampling
    bias_stride: Index


@dataclass(frozen=True)
class DirectBackward(Struct):
    """Gradients of a chunk."""

    sampling: Sampling


@dataclass(frozen=True)
class DirectGradWeight(Struct):
    """Partial gradients of weight and bias; lanes share a position."""

    sampling: Sampling
    splits: Int  # ranges of positions, summed separately
    accumulate: Flag


@dataclass(frozen=True)
class ReduceGradWeight(Struct):
    """Gradients of weight and bias."""

    problem: Problem
    splits: Int


# ---- fused/ --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackWeightFused(Struct):
    """A weight in the order of the stages."""

    problem: Problem
    weight: Strides
    layout: KLayout
    stages: Int  # of a tile


@dataclass(frozen=True)
class Fused(Struct):
    """Output of a chunk; lanes are unused."""

    sampling: Sampling
    layout: KLayout
    stages: Int  # of a tile
    splits: Int  # ranges of the stages, summed separately
    split_stages: Int  # of a split; the last may have fewer
    tile_w: Int  # columns of a tile that is a rectangle of positions; 0: a run of positions
    output: Strides
    bias_stride: Index
    split_size: Index  # elements of the partial output of one split


@dataclass(frozen=True)
class ReduceSplitK(Struct):
    """Output of a chunk from its partial outputs."""

    chunk: Chunk
    output: Strides
    bias_stride: Index
    split_size: Index
    splits: Int
    out_channels: Int
    out_w: Int


PARAMS: dict[str, type[Struct]] = {
    "channels_last": ChannelsLast,
    "channels_first": ChannelsFirst,
    "pack_weight": PackWeight,
    "unpack_weight": UnpackWeight,
    "deform_im2col": Im2col,
    "deform_im2col_jvp": Im2colJvp,
    "deform_backward": Backward,
    "deform_double_backward": DoubleBackward,
    "count_cells": CountCells,
    "scan_cells": ScanCells,
    "fill_cells": FillCells,
    "sort_cells": SortCells,
    "gather_grad_input": GatherGradInput,
    "deform_direct": Direct,
    "deform_direct_backward": DirectBackward,
    "deform_direct_grad_weight": DirectGradWeight,
    "reduce_grad_weight": ReduceGradWeight,
    "pack_weight_fused": PackWeightFused,
    "deform_fused": Fused,
    "reduce_split_k": ReduceSplitK,
}
