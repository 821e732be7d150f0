"""Tensors for the tests of the torch adapter, on the CPU and on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import ASYMMETRIC, Case, build

import cudeform

torch = pytest.importorskip("torch")

# torch's modules warn of their own deprecations, and its checks read .grad of non-leaf tensors.
quiet = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)

NAMES = ("input", "offset", "weight", "bias", "mask")

# The sizes of torchvision's test: all different, with groups of both kinds.
CASE = build("torch", **ASYMMETRIC, offset="small")
SIZES = {name: getattr(CASE, name) for name in ("stride", "padding", "dilation")}
STATIC_ARGS = [2, 1, 1, 1, 0, 0, 2, 1, 0, 0]  # SIZES as the operators take them


def tensors(device: Any, case: Case = CASE, *, grad: bool = False) -> list[Any]:
    """The operands; no offset is at a whole coordinate, where the output has kinks."""
    offset = np.floor(case.offset * 8) / 8 + 1 / 16
    arrays = {**{name: getattr(case, name) for name in NAMES}, "offset": offset}
    return [
        torch.tensor(arrays[name], device=device, requires_grad=grad)
        for name in NAMES
        if arrays[name] is not None
    ]


def convolve(*operands: Any) -> Any:
    """``deform_conv2d`` of operands in the order of NAMES."""
    input, offset, weight, bias, mask = (*operands, None, None)[:5]
    return cudeform.deform_conv2d(input, offset, weight, bias, mask=mask, **SIZES)


def close(some: Any, others: Any) -> bool:
    return all(torch.allclose(a, b) for a, b in zip(some, others, strict=True))


def ones_of_output(device: Any) -> Any:
    return torch.ones(CASE.grad_output.shape, dtype=torch.float64, device=device)
