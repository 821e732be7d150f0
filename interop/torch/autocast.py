"""What autocast does to the tensors of a call.

A convolution is computed in float32, unless all its tensors have the same 16-bit dtype. An operator
whose coordinates may be float32 beside 16-bit values keeps the dtype of its values, and its 16-bit
coordinates are converted to float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cudeform.family import Operator

from .views import Tensor

HALVES = (torch.float16, torch.bfloat16)


def applies(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autocast is on, and the tensors do not all have the same 16-bit dtype."""
    device = tensors[1].device.type  # type: ignore[union-attr]
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return False
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    return not (len(dtypes) == 1 and dtypes <= set(HALVES))


def converted(operator: Operator, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The operands, in order, in the dtypes of the computation."""
    return [
        _to_float32(tensor) if operand.coordinates else converted_as_input(operator, tensor)
        for operand, tensor in zip(operator.operands, tensors, strict=True)
    ]


def converted_as_input(operator: Operator, tensor: Tensor | None) -> Any:
    """A tensor of the dtype of the input, such as a gradient of the output."""
    return tensor if operator.coordinates else _to_float32(tensor)


def _to_float32(tensor: Tensor | None) -> Any:
    """Convert 16-bit tensors to float32; like autocast, leave float64 and integers unchanged."""
    if tensor is None or tensor.dtype not in HALVES:
        return tensor
    return tensor.float()
