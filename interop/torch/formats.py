"""Memory formats: results are channels-last where ``torch.nn.Conv2d`` gives channels-last results.

The output is channels-last if the input or the weight is; a gradient has the format of its
argument. ``torch.Tensor.is_contiguous`` does not decide: a crop of a channels-last image has gaps,
and an image with one channel is contiguous in both formats.
"""

from __future__ import annotations

from typing import Any

import torch

from .views import Tensor

CONTIGUOUS = torch.contiguous_format

# By number of dimensions: the format, and its dimensions from the innermost to the outermost.
FORMATS = {
    4: (torch.channels_last, (1, 3, 2, 0)),
    5: (torch.channels_last_3d, (1, 4, 3, 2, 0)),
}


def format_of(*tensors: Tensor) -> Any:
    """Channels-last if one of the tensors is, as torch's own operators see it."""
    for tensor in tensors:
        shape, strides = tensor.shape, tensor.stride()
        memory_format, inner_to_outer = FORMATS.get(len(shape), (CONTIGUOUS, ()))
        least = 1
        for dim in inner_to_outer:
            # With one pixel an image, nothing tells the formats apart: torch says contiguous.
            if strides[dim] < least or (dim == 0 and least == strides[1]):
                memory_format = CONTIGUOUS
                break
            least = strides[dim] * shape[dim]
        if memory_format is not CONTIGUOUS:
            return memory_format
    return CONTIGUOUS
