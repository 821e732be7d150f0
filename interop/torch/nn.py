"""Layers, with the parameters and the names of those they stand in for."""

from __future__ import annotations

import math

import torch
from torch import nn

from cudeform.geometry import Padding, Pair, as_pair

from .functional import deform_conv2d
from .impl import Tensor


class DeformConv2d(nn.Module):  # type: ignore[misc]
    """Deformable convolution with a weight of its own: ``torchvision.ops.DeformConv2d``.

    Constructor, parameters and results are torchvision's, and a state dict of either loads into the
    other.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size: vertical and horizontal, or one number for both.
        stride, padding, dilation: as for ``cudeform.deform_conv2d``.
        groups: of channels and filters.
        bias: whether there is one.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        boundary_grad: str | None = None,
    ) -> None:
        """Make the layer and initialise its parameters."""
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"groups = {groups} must divide {name}, got {channels}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_pair("stride", stride, 1)
        self.padding = padding
        self.dilation = as_pair("dilation", dilation, 1)
        self.groups = groups
        self.boundary_grad = boundary_grad
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``torch.nn.Conv2d`` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve; see ``cudeform.deform_conv2d`` for the shapes."""
        return deform_conv2d(
            input,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            mask,
            boundary_grad=self.boundary_grad,
        )

    def extra_repr(self) -> str:
        """Arguments of the constructor that are not the default."""
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        shown += f", stride={self.stride}"
        optional = {
            "padding": (self.padding, (0, 0)),
            "dilation": (self.dilation, (1, 1)),
            "groups": (self.groups, 1),
            "bias": (self.bias is not None, True),
            "boundary_grad": (self.boundary_grad, None),
        }
        changed = (f", {n}={value!r}" for n, (value, usual) in optional.items() if value != usual)
        return shown + "".join(changed)
