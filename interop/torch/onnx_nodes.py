"""The ONNX nodes of the operators that have a form in ONNX.

A deformable convolution is one node ``DeformConv``. Deformable attention is standard operators,
with one ``GridSample`` for each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cudeform.family import DEFORM_CONV2D, MS_DEFORM_ATTN

from . import impl
from .static_args import unpack
from .views import Tensor

# The first opsets with DeformConv and with DeformConv of bfloat16.
FIRST_OPSET, FIRST_BFLOAT16_OPSET = 19, 22

# The opset that torch's exporter builds nodes in, before it converts the model to a later one.
BUILT_OPSET = 18

# A coordinate of GridSample with this magnitude is outside of a level of any size, where samples
# are 0. Coordinates are clipped to it, because onnxruntime converts them to integers, which
# overflow.
FARTHEST = 3.0


class NoOnnxForm(ValueError):
    """A part of the model has no ONNX form, or not in this opset."""


def first_opset(is_bfloat16: bool) -> int:
    """The first opset with DeformConv, of bfloat16 or of other dtypes."""
    return FIRST_BFLOAT16_OPSET if is_bfloat16 else FIRST_OPSET


def traced_convolution(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    static_args: Sequence[int],
) -> Tensor:
    """Trace the node of ``deform_conv2d``."""
    output = impl.forward(DEFORM_CONV2D, impl.Fake, input, offset, weight, bias, mask, static_args)
    return torch.onnx.ops.symbolic(
        "DeformConv",
        _inputs(input, offset, weight, bias, mask),
        _attributes(input.shape, offset.shape, weight.shape, static_args),
        dtype=input.dtype,
        shape=output.shape,
        version=first_opset(input.dtype is torch.bfloat16),
    )


# torch's exporter reads the annotations: it passes a sequence of integers as an attribute.
def translated_convolution(
    input: Any, offset: Any, weight: Any, bias: Any, mask: Any, static_args: Sequence[int]
) -> Any:
    """Translate ``deform_conv2d`` in an exported program to the node."""
    from onnxscript import values

    opset = values.Opset("", first_opset(input.dtype.name == "BFLOAT16"))
    return opset.DeformConv(
        *_inputs(input, offset, weight, bias, mask),
        **_attributes(input.shape, offset.shape, weight.shape, static_args),
    )


def _inputs(input: Any, offset: Any, weight: Any, bias: Any, mask: Any) -> tuple[Any, ...]:
    """Inputs in the order of the node."""
    return input, weight, offset, bias, mask


def _attributes(
    input: Sequence[Any], offset: Sequence[Any], weight: Sequence[Any], static_args: Sequence[int]
) -> dict[str, Any]:
    """Attributes of the node, from the shapes of its inputs."""
    sizes = (input[1], offset[1], *weight)
    if not all(isinstance(size, int) for size in sizes):
        raise NoOnnxForm(
            "ONNX needs numbers for the channels of input and offset and for the shape of weight, "
            f"got shapes {input}, {offset} and {weight}: only batch and image sizes can be dynamic"
        )
    channels, offset_channels, _, group_channels, *kernel = sizes
    settings: Any = unpack(DEFORM_CONV2D, static_args).settings  # integers per axis
    (top, bottom), (left, right) = settings.padding
    return {
        "kernel_shape": kernel,
        "strides": list(settings.stride),
        "pads": [top, left, bottom, right],
        "dilations": list(settings.dilation),
        "group": channels // group_channels,
        "offset_group": offset_channels // (2 * kernel[0] * kernel[1]),
    }


# Locations, weights: (N, Lq, M, L, P) or, with unequal points, (N, Lq, M, sum of points).
def translated_attention(
    value: Any, sampling_locations: Any, attention_weights: Any, static_args: Sequence[int]
) -> Any:
    """Translate ``ms_deform_attn`` in an exported program to standard operators.

    Half precision is computed in float32, as cudeform does.
    """
    from onnxscript import ir, values

    opset = values.Opset("", BUILT_OPSET)
    settings: Any = unpack(MS_DEFORM_ATTN, static_args).settings
    heads, channels, points = _attention_sizes(
        value.shape, sampling_locations.shape, len(settings.spatial_shapes), settings.points
    )
    dtype = value.dtype
    computed = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    arrays = [value, sampling_locations, attention_weights]
    if dtype != computed:
        arrays = [opset.Cast(array, to=computed) for array in arrays]
    images = opset.Transpose(arrays[0], perm=[0, 2, 3, 1])  # (N, M, D, S)
    grids = _grids(opset, arrays[1], heads, sum(points), computed)
    weights = _weights(opset, arrays[2], heads, sum(points))
    total, pixel, tap = None, 0, 0
    for (height, width), count in zip(settings.spatial_shapes, points, strict=True):
        image = opset.Slice(images, [pixel], [pixel + height * width], [3])
        samples = opset.GridSample(
            opset.Reshape(image, [-1, channels, height, width]),
            opset.Slice(grids, [tap], [tap + count], [2]),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=0,
        )  # (N*M, D, Lq, count)
        weighted = opset.Mul(samples, opset.Slice(weights, [tap], [tap + count], [3]))
        summed = opset.ReduceSum(weighted, [3], keepdims=0)
        total = summed if total is None else opset.Add(total, summed)
        pixel, tap = pixel + height * width, tap + count
    output = opset.Transpose(opset.Reshape(total, [-1, heads * channels, 0]), perm=[0, 2, 1])
    return opset.Cast(output, to=dtype) if dtype != computed else output


# To GridSample each head of an example is an image. The next two functions move Lq to the front
# before they merge N and M: N and Lq may be dynamic, and a Reshape can infer only one size.


def _grids(opset: Any, locations: Any, heads: int, taps: int, dtype: Any) -> Any:
    """Locations in [0, 1] as coordinates of GridSample in [-1, 1], (N*M, Lq, taps, 2)."""
    from onnxscript import ir

    def number(value: float) -> Any:
        return opset.Constant(value=ir.tensor(value, dtype))

    separate = opset.Reshape(locations, [0, 0, heads, taps, 2])
    merged = opset.Reshape(opset.Transpose(separate, perm=[1, 0, 2, 3, 4]), [0, -1, taps, 2])
    doubled = opset.Mul(opset.Transpose(merged, perm=[1, 0, 2, 3]), number(2.0))
    return opset.Clip(opset.Sub(doubled, number(1.0)), number(-FARTHEST), number(FARTHEST))


def _weights(opset: Any, weights: Any, heads: int, taps: int) -> Any:
    """Weights as factors of the samples of all channels, (N*M, 1, Lq, taps)."""
    separate = opset.Reshape(weights, [0, 0, heads, taps])
    merged = opset.Reshape(opset.Transpose(separate, perm=[1, 0, 2, 3]), [0, -1, 1, taps])
    return opset.Transpose(merged, perm=[1, 2, 0, 3])


def _attention_sizes(
    value: Sequence[Any], locations: Sequence[Any], levels: int, points: Sequence[int] | None
) -> tuple[int, int, Sequence[int]]:
    """Heads, channels of a head, and points of each level."""
    heads, channels = value[2:]
    points = [locations[4]] * levels if points is None else points
    if not all(isinstance(size, int) for size in (heads, channels, *points)):
        raise NoOnnxForm(
            "ONNX needs numbers for the heads and channels of value and for the points of "
            f"sampling_locations, got shapes {value} and {locations}: only the batch and the "
            "number of queries can be dynamic"
        )
    return heads, channels, points
