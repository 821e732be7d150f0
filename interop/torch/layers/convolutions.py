"""Layers in one and three dimensions, and transposed layers; ``nn.py`` has the others.

Constructors are those of ``torch.nn.Conv1d``, ``torch.nn.ConvTranspose2d`` and so on, and so are
the names and shapes of the parameters.
"""

from __future__ import annotations

import math
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
)
from cudeform.settings import Ints, Padding, Settings, as_ints, as_padding, plain
from cudeform.spec import AnySettings, Operator
from cudeform.transposed.geometry import (
    TransposedPadding,
    TransposedSettings,
    least_out_size,
)

from ..adapter import ADAPTER
from ..views import Tensor


class Layer(nn.Module):  # type: ignore[misc]
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

    def compute(
        self, input: Tensor, offset: Tensor, mask: Tensor | None, settings: AnySettings
    ) -> Tensor:
        """Compute the output with these settings."""
        operands = Operands(input, offset, self.weight, self.bias, mask)
        return ADAPTER.forward(self.operator, operands, settings, self.boundary_grad)

    def extra_repr(self) -> str:
        """Channels, kernel and settings."""
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        named = {**self.settings._asdict(), "groups": self.groups, "bias": self.bias is not None}
        return shown + "".join(f", {name}={value}" for name, value in named.items())


class Conv(Layer):
    """A convolution, with the arguments of torch's own layer."""

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

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the output; see the function of the operator for the shapes."""
        return self.compute(input, offset, mask, self.settings)


class ConvTranspose(Layer):
    """A transposed convolution, with the arguments of torch's own layer."""

    settings: TransposedSettings

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

    def forward(
        self,
        input: Tensor,
        offset: Tensor,
        mask: Tensor | None = None,
        output_size: Ints | None = None,
    ) -> Tensor:
        """Compute the output.

        Args:
            input, offset, mask: see the function of the operator for the shapes.
            output_size: the size of the output along each axis; it replaces the output padding.
        """
        settings = self.settings if output_size is None else self._settings_of(input, output_size)
        return self.compute(input, offset, mask, settings)

    def _settings_of(self, input: Tensor, output_size: Ints) -> AnySettings:
        """The settings with the output padding that gives a size."""
        per_axis: Any = self.settings  # the constructor has packed them
        stride, padding, _, dilation, _ = per_axis
        axes = self.operator.axes
        wanted = as_ints("output_size", output_size, 1, axes)
        sizes = zip(input.shape[-axes:], padding, dilation, self.kernel_size, stride, strict=True)
        least = tuple(least_out_size(*of_axis) for of_axis in sizes)
        most = tuple(size + step - 1 for size, step in zip(least, stride, strict=True))
        more = tuple(size - smallest for size, smallest in zip(wanted, least, strict=True))
        if any(not 0 <= each < step for each, step in zip(more, stride, strict=True)):
            raise ValueError(f"output_size must be from {least} to {most} here, got {wanted}")
        return self.settings._replace(output_padding=more)


class DeformConv1d(Conv):
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


class DeformConv3d(Conv):
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


class DeformConvTranspose1d(ConvTranspose):
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


class DeformConvTranspose2d(ConvTranspose):
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


class DeformConvTranspose3d(ConvTranspose):
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
