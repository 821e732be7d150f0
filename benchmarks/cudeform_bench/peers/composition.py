"""Deformable convolutions composed of torch's ``grid_sample`` and a matrix product.

This is what users of torch write for operators that no library of theirs has. It shares no code
with cudeform, so its float64 results also serve as the exact ones of the GPU benchmark. Operands
are tensors with the shapes that cudeform's functions take; all of them are differentiable once.

``grid_sample`` has two and three axes. One axis is computed as two, with an image of height 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import grid_sample

from cudeform_bench.convolutions import Convolution

Tensor = Any

BILINEAR, ZEROS = 0, 0  # numbers of the modes, as the functions behind grid_sample take them


def output(
    config: Convolution, input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor
) -> Tensor:
    """The output of the operator of ``config``, (N, O, *out_size)."""
    if config.transposed:
        result = _Transposed.apply(config, input, offset, weight, mask)
    else:
        result = _convolution(config, input, offset, weight, mask)
    return result + bias.reshape(-1, *[1] * config.axes)


def _convolution(
    config: Convolution, image: Tensor, offset: Tensor, weight: Tensor, mask: Tensor
) -> Tensor:
    """``W (S x)``; of a transposed configuration, the convolution whose transpose it is."""
    samples = grid_sample(_image(config, image), _grid(config, offset), align_corners=False)
    columns = _masked(config, samples, mask).reshape(
        config.batch, config.groups, -1, _count(config)
    )
    return (_rows(config, weight) @ columns).reshape(config.batch, -1, *config.position_size)


class _Transposed(torch.autograd.Function):  # type: ignore[misc]
    """``S^T (W^T x)``: the gradient of :func:`_convolution` by its image, and its own gradients."""

    @staticmethod
    def forward(
        ctx: Any, config: Convolution, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor
    ) -> Tensor:
        ctx.config = config
        ctx.save_for_backward(input, offset, weight, mask)
        positions = input.reshape(config.batch, config.groups, -1, _count(config))
        columns = _masked(config, _rows(config, weight).mT @ positions, mask)
        image = _image(config, input.new_zeros(config.batch, config.out_channels, *config.out_size))
        grid = _grid(config, offset)
        scatter = torch.ops.aten.grid_sampler_3d_backward
        if config.axes < 3:
            scatter = torch.ops.aten.grid_sampler_2d_backward
        of_samples = columns.reshape(*image.shape[:2], *grid.shape[1:-1])
        modes = BILINEAR, ZEROS, False
        added, _ = scatter(of_samples, image, grid, *modes, [True, False])
        return added.reshape(config.batch, config.out_channels, *config.out_size)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        config: Convolution = ctx.config
        input, *others = ctx.saved_tensors
        leaves = [tensor.detach().requires_grad_() for tensor in others]
        with torch.enable_grad():
            grad_input = _convolution(config, grad_output, *leaves)
        return (None, grad_input.detach(), *torch.autograd.grad(grad_input, leaves, input))


def _count(config: Convolution) -> int:
    """Number of positions of an image."""
    return config.positions // config.batch


def _rows(config: Convolution, weight: Tensor) -> Tensor:
    """A filter as (groups, rows of a group, channels of a group * taps)."""
    return weight.reshape(config.groups, weight.shape[0] // config.groups, -1)


def _image(config: Convolution, image: Tensor) -> Tensor:
    """An image as ``grid_sample`` takes it, with offset groups as images of their own."""
    size = config.image_size if config.axes > 1 else (1, *config.image_size)
    return image.reshape(config.batch * config.offset_groups, -1, *size)


def _masked(config: Convolution, samples: Tensor, mask: Tensor) -> Tensor:
    """Samples of any shape times the mask: (N, offset_groups, channels, taps, *position_size)."""
    outer = config.batch, config.offset_groups
    inner = config.taps, *config.position_size
    return samples.reshape(*outer, -1, *inner) * mask.reshape(*outer, 1, *inner)


def _grid(config: Convolution, offset: Tensor) -> Tensor:
    """The coordinates of all samples, from -1 to 1 over the image, in the order (x, y, z)."""
    axes, size, positions = config.axes, config.image_size, config.position_size
    kind = {"dtype": offset.dtype, "device": offset.device}
    outer = config.batch * config.offset_groups
    displacement = offset.reshape(outer, config.taps, axes, *positions)
    coordinates = []
    for axis in range(axes):
        tap = torch.arange(config.kernel, **kind).reshape(-1, *[1] * (axes - 1 - axis))
        tap = tap.expand([config.kernel] * axes).reshape(-1, *[1] * axes)
        position = torch.arange(positions[axis], **kind).reshape(-1, *[1] * (axes - 1 - axis))
        pixel = position * config.stride - config.padding + tap + displacement[:, :, axis]
        coordinates.append((2 * pixel + 1) / size[axis] - 1)
    if axes == 1:
        coordinates = [torch.zeros_like(coordinates[0]), *coordinates]
    grid = torch.stack(coordinates[::-1], -1)
    # Taps are slices or rows of the samples; with one axis they are its rows.
    return grid if axes == 1 else grid.flatten(1, 2)
