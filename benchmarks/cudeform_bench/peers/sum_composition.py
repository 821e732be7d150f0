"""Attention, DCNv3 and DCNv4 composed of torch's ``grid_sample``, differentiable by autograd.

Without a GPU, mmcv, transformers and InternImage compute the operators with such compositions.
Operands are tensors with the shapes that cudeform's functions take.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch._functorch import config as functorch_config
from torch.nn.functional import grid_sample

from cudeform_bench.sums import KERNEL, TAPS, Sum

Tensor = Any


def output(config: Sum, operands: dict[str, Tensor]) -> Tensor:
    """The output of the operator of ``config``."""
    if config.is_attention:
        return _attention(config, **operands)
    if config.operator == "dcnv3":
        return _dcnv3(config, **operands)
    return _dcnv4(config, **operands)


def compiled_output(config: Sum, operands: dict[str, Tensor]) -> Tensor:
    """The same by ``torch.compile``, once for each configuration."""
    # By default a compiled backward frees tensors that a second one of the same graph needs.
    with functorch_config.patch(donated_buffer=False):
        return _compiled(config)(operands)


@cache
def _compiled(config: Sum) -> Any:
    torch.compiler.reset()  # the number of compilations of a function is limited
    return torch.compile(partial(output, config), fullgraph=True, dynamic=False)


def _attention(
    config: Sum, value: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """A call of grid_sample for each level; heads are images of their own."""
    batch, queries, images = config.batch, config.queries, config.batch * config.groups
    levels = value.split([height * width for height, width in config.sizes], dim=1)
    grids = 2 * sampling_locations - 1
    samples = []
    for at, (size, level) in enumerate(zip(config.sizes, levels, strict=True)):
        image = level.flatten(2).transpose(1, 2).reshape(images, config.channels, *size)
        grid = grids[:, :, :, at].transpose(1, 2).flatten(0, 1)
        samples.append(grid_sample(image, grid, align_corners=False))
    weights = attention_weights.transpose(1, 2).reshape(images, 1, queries, config.taps)
    sums = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)
    return sums.reshape(batch, config.image_channels, queries).transpose(1, 2).contiguous()


def _dcnv3(config: Sum, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """A call of grid_sample; groups are images of their own."""
    batch, (height, width), groups = config.batch, config.sizes[0], config.groups
    positions, images = height * width, batch * groups
    kind = {"dtype": offset.dtype, "device": offset.device}
    y, x = torch.meshgrid(torch.arange(height, **kind), torch.arange(width, **kind), indexing="ij")
    tap = torch.arange(KERNEL, **kind) - KERNEL // 2
    tap_x, tap_y = torch.meshgrid(tap, tap, indexing="ij")  # the width is outer
    pixel = torch.stack([x, y], -1).reshape(positions, 1, 1, 2)
    pixel = pixel + torch.stack([tap_x, tap_y], -1).reshape(TAPS, 2)
    pixel = pixel + offset.reshape(batch, positions, groups, TAPS, 2)
    grid = (2 * pixel + 1) / torch.tensor([width, height], **kind) - 1
    image = input.flatten(1, 2).transpose(1, 2).reshape(images, config.channels, height, width)
    samples = grid_sample(image, grid.transpose(1, 2).flatten(0, 1), align_corners=False)
    weights = mask.reshape(batch, positions, groups, TAPS).transpose(1, 2)
    sums = (samples * weights.reshape(images, 1, positions, TAPS)).sum(-1)
    return sums.reshape(batch, config.image_channels, positions).mT.reshape(config.output_shape)


def _dcnv4(config: Sum, input: Tensor, offset_mask: Tensor) -> Tensor:
    """DCNv3 with parts of the packed rows."""
    outer = (config.batch, *config.out_size)
    rows = offset_mask[..., : 3 * config.groups * TAPS].unflatten(-1, (config.groups, 3 * TAPS))
    offset, mask = rows.split([2 * TAPS, TAPS], dim=-1)
    return _dcnv3(config, input, offset.reshape(*outer, -1), mask.reshape(*outer, -1))
