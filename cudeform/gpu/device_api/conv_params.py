"""The structs that the kernels of convolutions take by value, after their pointers.

Structs that are parts of several of them are in ``conv_sizes.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.gpu.device_api.conv_sizes import (
    Chunk,
    ColumnLayout,
    KLayout,
    Problem,
    Sampling,
    TangentStrides,
)
from cudeform.gpu.device_api.structs import Flag, Index, Int, PerAxis, Strides, Struct

# ---- layout/ -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelsLast(Struct):
    """The pixels and images that are copied to channels-last images."""

    source: Strides
    size: PerAxis
    first_image: Int
    images: Int
    channels: Int
    first_pixel: Index
    pixels: Index  # number of copied pixels of an image


@dataclass(frozen=True)
class ChannelsFirst(Struct):
    """The images that are copied back to the array (N, C, *size)."""

    first_image: Int
    images: Int
    channels: Int
    pixels: Index  # number of pixels of an image


@dataclass(frozen=True)
class PackWeight(Struct):
    """Strides of the weight and of the bias, and the layout of the packed weight."""

    problem: Problem
    weight: Strides
    bias_stride: Index
    ld_columns: Index


@dataclass(frozen=True)
class UnpackWeight(Struct):
    """The layout of the packed gradient of the weight."""

    problem: Problem
    ld_columns: Index


@dataclass(frozen=True)
class AddArrays(Struct):
    """Sizes of the array to which another array or a bias is added."""

    channels: Int
    pixels: Index  # number of pixels of an image
    bias_stride: Index
    items: Index


# ---- im2col/ and backward/ -----------------------------------------------------------------------


@dataclass(frozen=True)
class Im2col(Struct):
    """The samples of a chunk, and the columns to which they are written."""

    sampling: Sampling
    layout: ColumnLayout


@dataclass(frozen=True)
class Im2colJvp(Struct):
    """The samples of a chunk and their tangents, and the columns for the result."""

    sampling: Sampling
    layout: ColumnLayout
    tangents: TangentStrides


@dataclass(frozen=True)
class Backward(Struct):
    """The samples of a chunk, and their columns, which hold the gradient of the columns."""

    sampling: Sampling
    layout: ColumnLayout
    write_columns: Flag  # replace the gradient of the columns by the columns


@dataclass(frozen=True)
class DoubleBackward(Struct):
    """As ``Backward``, with the tangents of the samples."""

    sampling: Sampling
    layout: ColumnLayout
    tangents: TangentStrides
    write_columns: Flag  # replace the gradient of the columns by the tangent of the columns


# ---- grad_input_sorted/ --------------------------------------------------------------------------


@dataclass(frozen=True)
class CountCells(Struct):
    """The samples to locate; the strides of the images and the lanes are unused."""

    sampling: Sampling
    tangents: TangentStrides
    weights_are_tangents: Flag  # whether to store the tangents of the corner weights


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
    """The columns of a chunk, and the images into which they are summed."""

    problem: Problem
    layout: ColumnLayout
    images: Int
    lanes: Int  # number of adjacent threads that share a pixel
    accumulate: Flag


# ---- direct/ -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direct(Struct):
    """The samples of a chunk; the lanes share a position."""

    sampling: Sampling
    bias_stride: Index


@dataclass(frozen=True)
class DirectBackward(Struct):
    """The samples of a chunk; the lanes share a sample."""

    sampling: Sampling


@dataclass(frozen=True)
class DirectGradWeight(Struct):
    """The samples of a chunk, and the splits of the sum; the lanes share a position."""

    sampling: Sampling
    splits: Int  # number of ranges of positions that are summed separately
    accumulate: Flag


@dataclass(frozen=True)
class ReduceGradWeight(Struct):
    """The partial sums of the gradients of weight and bias."""

    problem: Problem
    splits: Int


# ---- fused/ --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackWeightFused(Struct):
    """Strides of the weight, and the order of the stages of the packed weight."""

    problem: Problem
    weight: Strides
    layout: KLayout
    stages: Int  # number of stages of a tile


@dataclass(frozen=True)
class Fused(Struct):
    """The samples of a chunk, the tiling, and the output; the lanes are unused."""

    sampling: Sampling
    layout: KLayout
    stages: Int  # number of stages of a tile
    splits: Int  # number of ranges of stages that are summed separately
    split_stages: Int  # number of stages of a split; the last may have fewer
    tile_w: Int  # width of a tile that is a rectangle of positions; 0: a run of positions
    output: Strides
    bias_stride: Index
    split_size: Index  # number of elements of the partial output of one split


@dataclass(frozen=True)
class ReduceSplitK(Struct):
    """The partial outputs of a chunk."""

    chunk: Chunk
    output: Strides
    bias_stride: Index
    split_size: Index
    splits: Int
    out_channels: Int
    out_w: Int
