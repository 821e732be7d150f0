"""Packs: the layers of ``convolutions.py`` that predict their own offsets and masks.

A convolution ``conv_offset`` predicts them from the input. It is initialised to zero: at first no
tap is displaced, and the mask, a sigmoid, is one half.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import nn

from cudeform.family import (
    DEFORM_CONV1D,
    DEFORM_CONV3D,
    DEFORM_CONV_TRANSPOSE1D,
    DEFORM_CONV_TRANSPOSE2D,
    DEFORM_CONV_TRANSPOSE3D,
)
from cudeform.settings import Ints, Padding
from cudeform.transposed.geometry import TransposedPadding

from ..views import Tensor
from .convolutions import Conv, ConvTranspose

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _make_pack(layer: Any) -> None:
    """Add the branch of a pack: one channel per coordinate of each tap, then one per mask value."""
    axes, taps = layer.operator.axes, prod(layer.kernel_size)
    sampled = layer.out_channels if isinstance(layer, ConvTranspose) else layer.in_channels
    if sampled % layer.offset_groups:
        raise ValueError(f"offset_groups = {layer.offset_groups} must divide {sampled} channels")
    predicted = layer.offset_groups * taps * (axes + layer.modulated)
    convolution = _CONVOLUTIONS[axes]
    if isinstance(layer, ConvTranspose):  # there is an offset for each position of the input
        layer.conv_offset = convolution(layer.in_channels, predicted, 3, padding=1)
    else:
        stride, padding, dilation = layer.settings
        if any(begin != end for begin, end in padding):
            raise ValueError(f"padding of a pack must be equal on both sides, got {padding}")
        ends = tuple(end for _, end in padding)
        sizes = layer.kernel_size, stride, ends, dilation
        layer.conv_offset = convolution(layer.in_channels, predicted, *sizes)
    nn.init.zeros_(layer.conv_offset.weight)
    nn.init.zeros_(layer.conv_offset.bias)


def _predicted(layer: Any, input: Tensor) -> tuple[Tensor, Tensor | None]:
    """The offset and the mask that the branch of a pack predicts."""
    predicted = layer.conv_offset(input)
    if not layer.modulated:
        return predicted, None
    masks = layer.offset_groups * prod(layer.kernel_size)
    # Counted from the end, so that an image without a batch axis gets the error about its shape.
    channels = -1 - layer.operator.axes
    offset, mask = predicted.split([masks * layer.operator.axes, masks], dim=channels)
    return offset, mask.sigmoid()


class _ConvPack(Conv):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = True,
        *,
        modulated: bool = True,
        boundary_grad: str | None = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, dilation, groups, bias)
        super().__init__(in_channels, out_channels, *sizes, boundary_grad=boundary_grad)
        self.offset_groups, self.modulated = offset_groups, modulated
        _make_pack(self)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, *size) to (N, O, *out)."""
        return super().forward(input, *_predicted(self, input))


class _ConvTransposePack(ConvTranspose):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: TransposedPadding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        *,
        modulated: bool = True,
        boundary_grad: str | None = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, output_padding, groups, bias, dilation)
        super().__init__(in_channels, out_channels, *sizes, boundary_grad=boundary_grad)
        self.offset_groups, self.modulated = offset_groups, modulated
        _make_pack(self)

    def forward(self, input: Tensor, output_size: Ints | None = None) -> Tensor:  # type: ignore[override]
        """(N, C, *size) to (N, O, *out); for ``output_size`` see the layer with offsets."""
        return super().forward(input, *_predicted(self, input), output_size)


class DeformConv1dPack(_ConvPack):
    """:class:`DeformConv1d` that predicts its own offsets and, if ``modulated``, its mask.

    The branch has the sizes of the layer, so padding must be equal on both sides.

    Example:
        >>> import torch
        >>> DeformConv1dPack(3, 8, 5, padding=2)(torch.randn(1, 3, 16)).shape
        torch.Size([1, 8, 16])
    """

    operator = DEFORM_CONV1D


class DeformConv3dPack(_ConvPack):
    """:class:`DeformConv3d` that predicts its own offsets and, if ``modulated``, its mask.

    The branch has the sizes of the layer, so padding must be equal on both sides.

    Example:
        >>> import torch
        >>> DeformConv3dPack(3, 8, 3, padding=1)(torch.randn(1, 3, 4, 6, 6)).shape
        torch.Size([1, 8, 4, 6, 6])
    """

    operator = DEFORM_CONV3D


class DeformConvTranspose1dPack(_ConvTransposePack):
    """:class:`DeformConvTranspose1d` that predicts its own offsets and, if ``modulated``, its mask.

    The branch has a kernel of 3 and keeps the size, because there is an offset for each input
    position.

    Example:
        >>> import torch
        >>> layer = DeformConvTranspose1dPack(3, 8, 4, stride=2, padding=1)
        >>> layer(torch.randn(1, 3, 16)).shape
        torch.Size([1, 8, 32])
    """

    operator = DEFORM_CONV_TRANSPOSE1D


class DeformConvTranspose2dPack(_ConvTransposePack):
    """:class:`DeformConvTranspose2d` that predicts its own offsets and, if ``modulated``, its mask.

    The branch has a kernel of 3 and keeps the size, because there is an offset for each input
    position.

    Example:
        >>> import torch
        >>> layer = DeformConvTranspose2dPack(3, 8, 4, stride=2, padding=1)
        >>> layer(torch.randn(1, 3, 8, 8)).shape
        torch.Size([1, 8, 16, 16])
    """

    operator = DEFORM_CONV_TRANSPOSE2D


class DeformConvTranspose3dPack(_ConvTransposePack):
    """:class:`DeformConvTranspose3d` that predicts its own offsets and, if ``modulated``, its mask.

    The branch has a kernel of 3 and keeps the size, because there is an offset for each input
    position.

    Example:
        >>> import torch
        >>> layer = DeformConvTranspose3dPack(3, 8, 2, stride=2)
        >>> layer(torch.randn(1, 3, 4, 4, 4)).shape
        torch.Size([1, 8, 8, 8, 8])
    """

    operator = DEFORM_CONV_TRANSPOSE3D
