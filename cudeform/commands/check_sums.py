"""The calls of ``check`` for operators that sum samples without a filter: DCNv3 and attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import cudeform
from cudeform import derivatives
from cudeform.arrays import AttentionGradients, DCNv3Gradients

Arrays = dict[str, Any]

# Groups, and channels of a group: with and without 16-byte vectors.
SHAPES = ((2, 16), (3, 5))

SETTINGS: dict[str, Any] = {"kernel_size": 3, "padding": 1}

# Height and width of the levels of an attention.
LEVELS = ((9, 7), (4, 5))


def dcnv3_problems(dtype: str) -> Iterator[Arrays]:
    """The arrays of each call of DCNv3."""
    rng = np.random.default_rng(0)
    for groups, channels in SHAPES:
        shapes = {
            "grad_output": (2, 9, 7, groups * channels),
            "input": (2, 9, 7, groups * channels),
            "offset": (2, 9, 7, groups * 9 * 2),
            "mask": (2, 9, 7, groups * 9),
        }
        arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        # Exact in half precision and never an integer: both engines sample the same corners.
        arrays["offset"] = np.round(arrays["offset"] * 8) / 8 + 1 / 16
        yield {name: array.astype(dtype) for name, array in arrays.items()}


def attention_problems(dtype: str) -> Iterator[Arrays]:
    """The arrays of each call of deformable attention."""
    rng = np.random.default_rng(0)
    pixels = sum(height * width for height, width in LEVELS)
    for heads, channels in SHAPES:
        arrays = {
            "grad_output": rng.standard_normal((2, 6, heads * channels)),
            "value": rng.standard_normal((2, pixels, heads, channels)),
            "sampling_locations": rng.uniform(-0.1, 1.1, (2, 6, heads, len(LEVELS), 4, 2)),
            "attention_weights": rng.standard_normal((2, 6, heads, len(LEVELS), 4)),
        }
        yield {name: array.astype(dtype) for name, array in arrays.items()}


def dcnv3(arrays: Arrays) -> list[Any]:
    """The output and all gradients."""
    operands = _without_grad_output(arrays)
    output = cudeform.dcnv3(**operands, **SETTINGS)
    return [output, *cudeform.dcnv3_backward(**arrays, **SETTINGS)]


def dcnv3_second_order(arrays: Arrays) -> list[Any]:
    """The tangent of the output, and the gradients of the gradients."""
    operands = _without_grad_output(arrays)
    along = DCNv3Gradients(**operands)
    return [
        derivatives.dcnv3_jvp(along, **operands, **SETTINGS),
        *derivatives.dcnv3_double_backward(along, **arrays, **SETTINGS),
    ]


def attention(arrays: Arrays) -> list[Any]:
    """The output and all gradients."""
    operands = _without_grad_output(arrays)
    output = cudeform.ms_deform_attn(**operands, spatial_shapes=LEVELS)
    return [output, *cudeform.ms_deform_attn_backward(**arrays, spatial_shapes=LEVELS)]


def attention_second_order(arrays: Arrays) -> list[Any]:
    """The tangent of the output, and the gradients of the gradients."""
    operands = _without_grad_output(arrays)
    along = AttentionGradients(**operands)
    return [
        derivatives.ms_deform_attn_jvp(along, **operands, spatial_shapes=LEVELS),
        *derivatives.ms_deform_attn_double_backward(along, **arrays, spatial_shapes=LEVELS),
    ]


def _without_grad_output(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name != "grad_output"}
