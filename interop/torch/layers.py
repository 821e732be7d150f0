"""Layers in one and three dimensions, and transposed layers; ``nn.py`` has the others.

Constructors are those of ``torch.nn.Conv1d``, ``torch.nn.ConvTranspose2d`` and so on, and so are
the names and shapes of the parameters. A *pack* predicts its own offsets and mask from its input,
by a convolution ``conv_offset`` that is initialised to zero: at first no tap is displaced, and the
mask, a sigmoid, is one half.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any

import torch
from torch import nn

from cudeform.arrays import Operands
from cudeform.family import (
    DEFORM_CONV1D,
    DEFORM_CONV3D,
    DEFORM_CONV_TRANSPOSE1D,
    DEFORM_CONV_TRANSPOSE2D,
    DEFORM_CONV_TRANSPOSE3D,
    AnySettings,
    Operator,
)
from cudeform.settings import Ints, Padding, Settings, as_ints, as_padding, plain
from cudeform.transposed_geometry import TransposedPadding, TransposedSettings

from .adapter import ADAPTER
from .views import Tensor


class _Layer(nn.Module):  # type: ignore[misc]
    """A layer of an operator, with weight and bias.

    Attributes:
        operator: the entry of the operator in the table.
        settings: settings of the calls, as integers per axis.
    """

    operator: Operator

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        weight_shape: tuple[int, ...],
        settings: AnySettings,
        groups: int,
        bias: bool,
        boundary_grad: str | None,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"groups = {groups} must divide {name}, got {channels}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.groups = kernel, groups
        self.settings, self.boundary_grad = settings, boundary_grad
        self.weight = nn.Parameter(torch.empty(*weight_shape, *kernel))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias randomly, as torch's own layers do."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(max(1, self.weight[0].numel()))
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the output; see the function of the operator for the shapes."""
        operands = Operands(input, offset, self.weight, self.bias, mask)
        return ADAPTER.forward(self.operator, operands, self.settings, self.boundary_grad)

    def extra_repr(self) -> str:
        """Channels, kernel and settings."""
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        named = {**self.settings._asdict(), "groups": self.groups, "bias": self.bias is not None}
        return shown + "".join(f", {name}={value}" for name, value in named.items())


class _Conv(_Layer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        boundary_grad: str | None = None,
    ) -> None:
        axes = self.operator.axes
        kernel = as_ints("kernel_size", kernel_size, 1, axes)
        settings = Settings(
            as_ints("stride", stride, 1, axes),
            as_padding(padding, axes, kernel, stride, dilation),
            as_ints("dilation", dilation, 1, axes),
        )
        shape = (out_channels, in_channels // groups)
        sizes = (in_channels, out_channels, kernel, shape)
        super().__init__(*sizes, settings, groups, bias, boundary_grad)


class _ConvTranspose(_Layer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: TransposedPadding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        *,
        boundary_grad: str | None = None,
    ) -> None:
        axes = self.operator.axes
        given = TransposedSettings(stride, padding, output_padding, dilation, groups)
        settings = TransposedSettings.unpacked(
            TransposedSettings(*map(plain, given)).packed(axes), axes
        )
        kernel = as_ints("kernel_size", kernel_size, 1, axes)
        shape = (in_channels, out_channels // groups)
        sizes = (in_channels, out_channels, kernel, shape)
        super().__init__(*sizes, settings, groups, bias, boundary_grad)


class DeformConv1d(_Conv):
    """Deformable convolution in one dimension: ``cudeform.deform_conv1d`` as a layer.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, dilation: as for ``cudeform.deform_conv1d``.
        groups: groups of channels and filters.
        bias: whether the layer has a bias.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> layer = DeformConv1d(3, 8, 5, padding=2)
        >>> layer(torch.randn(1, 3, 16), torch.zeros(1, 5, 16)).shape
        torch.Size([1, 8, 16])
    """

    operator = DEFORM_CONV1D


class DeformConv3d(_Conv):
    """Deformable convolution in three dimensions: ``cudeform.deform_conv3d`` as a layer.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, dilation: as for ``cudeform.deform_conv3d``.
        groups: groups of channels and filters.
        bias: whether the layer has a bias.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> layer = DeformConv3d(3, 8, 1)
        >>> layer(torch.randn(1, 3, 4, 6, 6), torch.zeros(1, 3, 4, 6, 6)).shape
        torch.Size([1, 8, 4, 6, 6])
    """

    operator = DEFORM_CONV3D


class DeformConvTranspose1d(_ConvTranspose):
    """Transposed deformable convolution: ``cudeform.deform_conv_transpose1d`` as a layer.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, output_padding: as for ``cudeform.deform_conv_transpose1d``.
        groups: groups of channels and filters.
        bias: whether the layer has a bias.
        dilation: as for ``cudeform.deform_conv_transpose1d``.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> layer = DeformConvTranspose1d(3, 8, 4, stride=2, padding=1)
        >>> layer(torch.randn(1, 3, 16), torch.zeros(1, 4, 16)).shape
        torch.Size([1, 8, 32])
    """

    operator = DEFORM_CONV_TRANSPOSE1D


class DeformConvTranspose2d(_ConvTranspose):
    """Transposed deformable convolution: ``cudeform.deform_conv_transpose2d`` as a layer.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, output_padding: as for ``cudeform.deform_conv_transpose2d``.
        groups: groups of channels and filters.
        bias: whether the layer has a bias.
        dilation: as for ``cudeform.deform_conv_transpose2d``.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> layer = DeformConvTranspose2d(3, 8, 4, stride=2, padding=1)
        >>> layer(torch.randn(1, 3, 8, 8), torch.zeros(1, 2 * 16, 8, 8)).shape
        torch.Size([1, 8, 16, 16])
    """

    operator = DEFORM_CONV_TRANSPOSE2D


class DeformConvTranspose3d(_ConvTranspose):
    """Transposed deformable convolution: ``cudeform.deform_conv_transpose3d`` as a layer.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, output_padding: as for ``cudeform.deform_conv_transpose3d``.
        groups: groups of channels and filters.
        bias: whether the layer has a bias.
        dilation: as for ``cudeform.deform_conv_transpose3d``.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> layer = DeformConvTranspose3d(3, 8, 2, stride=2)
        >>> layer(torch.randn(1, 3, 4, 4, 4), torch.zeros(1, 3 * 8, 4, 4, 4)).shape
        torch.Size([1, 8, 8, 8, 8])
    """

    operator = DEFORM_CONV_TRANSPOSE3D


_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _make_pack(layer: Any) -> None:
    """Add the branch of a pack: one channel per coordinate of each tap, then one per mask value."""
    axes, taps = layer.operator.axes, prod(layer.kernel_size)
    sampled = layer.out_channels if isinstance(layer, _ConvTranspose) else layer.in_channels
    if sampled % layer.offset_groups:
        raise ValueError(f"offset_groups = {layer.offset_groups} must divide {sampled} channels")
    predicted = layer.offset_groups * taps * (axes + layer.modulated)
    convolution = _CONVOLUTIONS[axes]
    if isinstance(layer, _ConvTranspose):  # there is an offset for each position of the input
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


class _ConvPack(_Conv):
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


class _ConvTransposePack(_ConvTranspose):
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

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, *size) to (N, O, *out)."""
        return super().forward(input, *_predicted(self, input))


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
