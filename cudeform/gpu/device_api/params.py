"""The struct that each kernel takes by value, after its pointers: see ``PARAMS``.

Most structs have parts in common, which are in ``sizes``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.gpu.device_api.sizes import (
    Chunk,
    ColumnLayout,
    KLayout,
    Problem,
    Sampling,
    TangentStrides,
)
from cudeform.gpu.device_api.structs import Flag, Index, Int, PerAxis, Strides, Struct
from cudeform.gpu.device_api.sums_params import SumForward

# ---- layout/ -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelsLast(Struct):
    """Which pixels of which images are copied."""

    source: Strides
    size: PerAxis
    first_image: Int
    images: Int
    channels: Int
    first_pixel: Index
    pixels: Index  # of an image that are copied


@dataclass(frozen=True)
class ChannelsFirst(Struct):
    """Which images are written."""

    first_image: Int
    images: Int
    channels: Int
    pixels: Index  # of an image


@dataclass(frozen=True)
class PackWeight(Struct):
    """Strides of the weight and the bias, and the rows that they are packed into."""

    problem: Problem
    weight: Strides
    bias_stride: Index
    ld_columns: Index


@dataclass(frozen=True)
class UnpackWeight(Struct):
    """The rows of a packed weight."""

    problem: Problem
    ld_columns: Index


@dataclass(frozen=True)
class AddArrays(Struct):
    """Sizes of the array that is added to, and the stride of the bias."""

    channels: Int
    pixels: Index  # of an image
    bias_stride: Index
    items: Index


# ---- im2col/ and backward/ -----------------------------------------------------------------------


@dataclass(frozen=True)
class Im2col(Struct):
    """Sample a chunk into columns."""

    sampling: Sampling
    layout: ColumnLayout


@dataclass(frozen=True)
class Im2colJvp(Struct):
    """Sample a chunk into the tangent of its columns."""

    sampling: Sampling
    layout: ColumnLayout
    tangents: TangentStrides


@dataclass(frozen=True)
class Backward(Struct):
    """Turn the gradient of the columns of a chunk into those of input, offset and mask."""

    sampling: Sampling
    layout: ColumnLayout
    write_columns: Flag  # replace the gradient of the columns by the columns


@dataclass(frozen=True)
class DoubleBackward(Struct):
    """The same along tangents, for gradients of gradients."""

    sampling: Sampling
    layout: ColumnLayout
    tangents: TangentStrides
    write_columns: Flag  # replace the gradient of the columns by the tangent of the columns


# ---- grad_input_sorted/ --------------------------------------------------------------------------


@dataclass(frozen=True)
class CountCells(Struct):
    """Locate the samples of a chunk; strides of images and lanes are unused."""

    sampling: Sampling
    tangents: TangentStrides
    weights_are_tangents: Flag  # store the tangents of the corner weights


@dataclass(frozen=True)
class ScanCells(Struct):
    """How many cells there are."""

    cells: Index


@dataclass(frozen=True)
class FillCells(Struct):
    """How many samples there are."""

    samples: Index


@dataclass(frozen=True)
class SortCells(Struct):
    """How many samples there are."""

    samples: Index


@dataclass(frozen=True)
class GatherGradInput(Struct):
    """Sum the columns of a chunk into its images."""

    problem: Problem
    layout: ColumnLayout
    images: Int
    lanes: Int  # adjacent threads that share a pixel
    accumulate: Flag


# ---- direct/ -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direct(Struct):
    """Write the output of a chunk; lanes share a position."""

    sampling: Sampling
    bias_stride: Index


@dataclass(frozen=True)
class DirectBackward(Struct):
    """Write the gradients of a chunk; lanes share a sample."""

    sampling: Sampling


@dataclass(frozen=True)
class DirectGradWeight(Struct):
    """Sum the gradients of weight and bias over a chunk; lanes share a position."""

    sampling: Sampling
    splits: Int  # ranges of positions, summed separately
    accumulate: Flag


@dataclass(frozen=True)
class ReduceGradWeight(Struct):
    """Reduce the gradients of weight and bias over the splits."""

    problem: Problem
    splits: Int


# ---- fused/ --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackWeightFused(Struct):
    """Strides of the weight, and the order of the stages that it is packed into."""

    problem: Problem
    weight: Strides
    layout: KLayout
    stages: Int  # of a tile


@dataclass(frozen=True)
class Fused(Struct):
    """Write the output of a chunk, or its partial outputs; lanes are unused."""

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
    """Reduce the partial outputs of a chunk."""

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
    "add_arrays": AddArrays,
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
    "deform_sum": SumForward,
}
