"""Tensors for the tests of the TensorFlow adapter, and the engine's own results for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import ASYMMETRIC, Case, build

import cudeform

tf = pytest.importorskip("tensorflow")

NAMES = ("input", "offset", "weight", "bias", "mask")
CASE = build("tensorflow", **ASYMMETRIC, offset="small")
SETTINGS = {name: getattr(CASE, name) for name in ("stride", "padding", "dilation")}

# TensorFlow's modules warn of their own deprecations.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def tensors(case: Case = CASE) -> list[Any]:
    """The operands, in the order of NAMES."""
    return [tf.constant(getattr(case, name)) for name in NAMES]


def convolve(input: Any, offset: Any, weight: Any, bias: Any = None, mask: Any = None) -> Any:
    """``deform_conv2d`` of operands in the order of NAMES."""
    return cudeform.deform_conv2d(input, offset, weight, bias, mask=mask, **SETTINGS)


def expected_backward(case: Case = CASE) -> Any:
    """The gradients that the engine finds for NumPy arrays."""
    return cudeform.deform_conv2d_backward(**case.backward_arguments)


def same_bits(tensor: Any, array: Any) -> bool:
    """Whether a tensor has the dtype, the shape and the bytes of an array."""
    found = tensor.numpy()
    return (
        found.dtype == array.dtype
        and found.shape == array.shape
        and found.tobytes() == array.tobytes()
    )


def channels_last(name: str, array: Any) -> Any:
    """The array of an operand, or of its gradient, in TensorFlow's order of axes."""
    if name == "bias":
        return array
    axes = range(2, array.ndim)
    return np.transpose(array, (*axes, 1, 0) if name == "weight" else (0, *axes, 1))
