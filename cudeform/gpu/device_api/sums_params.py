"""The structs that the kernels of sums take by value, after their pointers.

Structs that are parts of several of them are in ``sums_sizes.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.gpu.device_api.structs import Flag, Index, Int, Struct
from cudeform.gpu.device_api.sums_sizes import (
    PositionStrides,
    SumGradStrides,
    SumSampling,
    SumTangentStrides,
)


@dataclass(frozen=True)
class SumForward(Struct):
    """The samples of the output."""

    sampling: SumSampling


@dataclass(frozen=True)
class SumBackward(Struct):
    """The samples, and the layouts of grad_output and of the gradients."""

    sampling: SumSampling
    grad_output: PositionStrides
    strides: SumGradStrides
    first_image: Int  # that of grad_input


@dataclass(frozen=True)
class SumJvp(Struct):
    """The samples and their tangents."""

    sampling: SumSampling
    tangents: SumTangentStrides


@dataclass(frozen=True)
class SumDoubleBackward(Struct):
    """As ``SumBackward``, with the tangents of the samples."""

    sampling: SumSampling
    tangents: SumTangentStrides
    grad_output: PositionStrides
    strides: SumGradStrides
    first_image: Int  # that of grad_input


@dataclass(frozen=True)
class CountSumCells(Struct):
    """The samples to locate; the strides of the input are unused."""

    sampling: SumSampling
    tangents: SumTangentStrides
    first_image: Int  # of the chunk
    weights_are_tangents: Flag  # whether to store the tangents of the corner weights


@dataclass(frozen=True)
class GatherSumGradInput(Struct):
    """The samples of a chunk, and the images into which they are summed."""

    sampling: SumSampling
    grad_output: PositionStrides
    images: Int
    accumulate: Flag


@dataclass(frozen=True)
class RoundGradInput(Struct):
    """Number of vectors."""

    vectors: Index
