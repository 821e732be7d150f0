"""The calls that ``check`` compares: arrays and settings for each operator of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import cudeform
from cudeform import derivatives
from cudeform.family import OPERATORS

Arrays = dict[str, Any]
Results = list[Any]
Shapes = dict[str, tuple[int, ...]]
Calls = Iterator[tuple[Shapes, dict[str, Any]]]  # shapes of the arrays, and settings


class Problem(NamedTuple):
    """A call.

    Attributes:
        operator: name of the operator.
        arrays: the operands and ``grad_output``, by users' names.
        settings: the arguments that are no arrays.
    """

    operator: str
    arrays: Arrays
    settings: dict[str, Any]

    def map(self, function: Callable[[Any], Any]) -> Problem:
        """The problem with a function applied to each of its arrays."""
        arrays = {name: function(array) for name, array in self.arrays.items()}
        return self._replace(arrays=arrays)


class Convolution(NamedTuple):
    """Sizes of a convolution with three taps along each axis."""

    batch: int
    channels: int
    out_channels: int
    groups: int
    offset_groups: int


# Channels with and without 16-byte vectors, groups for the direct kernels, and one product so deep
# that the fused kernel splits it.
CONVOLUTIONS = (
    Convolution(3, 16, 32, 1, 1),
    Convolution(3, 32, 64, 2, 2),
    Convolution(3, 6, 12, 3, 2),
    Convolution(3, 8, 16, 8, 1),
    Convolution(1, 128, 32, 1, 1),
)

# Positions along each axis, by number of axes.
POSITIONS = {1: (29,), 2: (13, 11), 3: (4, 5, 6)}

# Sums: height and width; groups, and channels of a group, with and without 16-byte vectors.
SUM_POSITIONS = (9, 7)
SUMS = ((2, 16), (3, 5))

# Height and width of the levels of an attention.
LEVELS = ((9, 7), (4, 5))


def forward(problem: Problem) -> Results:
    """The output."""
    return [getattr(cudeform, problem.operator)(**_operands(problem), **problem.settings)]


def backward(problem: Problem) -> Results:
    """All gradients."""
    function = getattr(cudeform, f"{problem.operator}_backward")
    return list(function(**problem.arrays, **problem.settings))


def jvp(problem: Problem) -> Results:
    """The tangent of the output; the tangents are the operands."""
    function = getattr(derivatives, f"{problem.operator}_jvp")
    return [function(_tangents(problem), **_operands(problem), **problem.settings)]


def double_backward(problem: Problem) -> Results:
    """All gradients of the gradients; the cotangents are the operands."""
    function = getattr(derivatives, f"{problem.operator}_double_backward")
    return list(function(_tangents(problem), **problem.arrays, **problem.settings))


def first_order(problem: Problem) -> Results:
    """The output and all gradients."""
    return forward(problem) + backward(problem)


def second_order(problem: Problem) -> Results:
    """The tangent of the output, and all gradients of the gradients."""
    return jvp(problem) + double_backward(problem)


def _operands(problem: Problem) -> Arrays:
    return {name: array for name, array in problem.arrays.items() if name != "grad_output"}


def _tangents(problem: Problem) -> Any:
    return OPERATORS[problem.operator].tangents[0](**_operands(problem))


def problems(operator: str, dtype: str) -> Iterator[Problem]:
    """The calls of an operator that are compared in a dtype."""
    rng = np.random.default_rng(0)
    for shapes, settings in CALLS[operator](OPERATORS[operator].axes):
        arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        for name in arrays.keys() & {"offset", "offset_mask"}:
            # Exact in half precision and never an integer: both engines sample the same corners.
            arrays[name] = np.round(arrays[name] * 8) / 8 + 1 / 16
        if "sampling_locations" in arrays:
            arrays["sampling_locations"] = rng.uniform(-0.1, 1.1, shapes["sampling_locations"])
        yield Problem(operator, arrays, settings).map(lambda array: array.astype(dtype))


def _convolutions(axes: int) -> Calls:
    stride = 1 if axes == 2 else 2
    for sizes in CONVOLUTIONS:
        yield _shapes(sizes, axes, stride), {"stride": stride, "padding": 1}


def _transposed(axes: int) -> Calls:
    """Convolutions with the shapes of input and ``grad_output`` exchanged."""
    for sizes in CONVOLUTIONS:
        shapes = _shapes(sizes, axes, stride=2)
        exchanged = {"input": shapes["grad_output"], "grad_output": shapes["input"]}
        settings = {"stride": 2, "padding": 1, "groups": sizes.groups}
        yield shapes | exchanged | {"bias": (sizes.channels,)}, settings


def _shapes(sizes: Convolution, axes: int, stride: int) -> Shapes:
    """Shapes of the arrays of a convolution that is padded by one."""
    batch, channels, out_channels, groups, offset_groups = sizes
    positions, taps = POSITIONS[axes], offset_groups * 3**axes
    return {
        "grad_output": (batch, out_channels, *positions),
        "input": (batch, channels, *[stride * (size - 1) + 1 for size in positions]),
        "offset": (batch, axes * taps, *positions),
        "weight": (out_channels, channels // groups, *(3,) * axes),
        "bias": (out_channels,),
        "mask": (batch, taps, *positions),
    }


def _dcnv3(axes: int) -> Calls:
    for groups, channels in SUMS:
        image, taps = (2, *SUM_POSITIONS, groups * channels), groups * 9
        shapes: Shapes = {"grad_output": image, "input": image}
        shapes |= {"offset": (*image[:3], 2 * taps), "mask": (*image[:3], taps)}
        yield shapes, {"kernel_size": 3, "padding": 1}


def _dcnv4(axes: int) -> Calls:
    for groups, channels in SUMS:
        image = (2, *SUM_POSITIONS, groups * channels)
        row = -(-groups * 9 * 3 // 8) * 8  # a multiple of 8, as the paper's layers make them
        shapes: Shapes = {"grad_output": image, "input": image, "offset_mask": (*image[:3], row)}
        yield shapes, {"kernel_size": 3, "groups": groups, "padding": 1}


def _attention(axes: int) -> Calls:
    pixels = sum(height * width for height, width in LEVELS)
    for heads, channels in SUMS:
        samples = (2, 6, heads, len(LEVELS), 4)
        shapes = {
            "grad_output": (2, 6, heads * channels),
            "value": (2, pixels, heads, channels),
            "sampling_locations": (*samples, 2),
            "attention_weights": samples,
        }
        yield shapes, {"spatial_shapes": LEVELS}


CALLS: dict[str, Callable[[int], Calls]] = {
    **{f"deform_conv{axes}d": _convolutions for axes in POSITIONS},
    **{f"deform_conv_transpose{axes}d": _transposed for axes in POSITIONS},
    "ms_deform_attn": _attention,
    "dcnv3": _dcnv3,
    "dcnv4": _dcnv4,
}
