"""Layers that predict their own offsets, as mmcv and the DCNv2 repositories made them popular.

Parameters and their names are mmcv's: ``weight``, ``bias`` and the ``conv_offset`` branch, which
begins at zero. So is the gradient of the offset at the image's edge, unless chosen otherwise.
"""

from __future__ import annotations

import torch
from torch import nn

from cudeform.geometry import Padding, Pair

from .impl import Tensor
from .nn import DeformConv2d


class _Pack(DeformConv2d):
    """A deformable convolution whose offsets an ordinary convolution of the input predicts."""

    # Numbers that the branch predicts for each tap.
    predicted: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
        *,
        boundary_grad: str | None = "zero",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            boundary_grad=boundary_grad,
        )
        if in_channels % deform_groups:
            raise ValueError(
                f"deform_groups = {deform_groups} must divide in_channels, got {in_channels}"
            )
        self.deform_groups = deform_groups
        self.conv_offset = nn.Conv2d(
            in_channels,
            self.predicted * deform_groups * self.kernel_size[0] * self.kernel_size[1],
            self.kernel_size,
            self.stride,
            padding,
            self.dilation,
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def extra_repr(self) -> str:
        """Arguments of the constructor that are not the default."""
        groups = f", deform_groups={self.deform_groups}" if self.deform_groups > 1 else ""
        return super().extra_repr() + groups


class DeformConv2dPack(_Pack):
    """DCNv1 that predicts its own offsets: ``mmcv.ops.DeformConv2dPack``.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, dilation: as for ``torch.nn.Conv2d``.
        groups: of channels and filters.
        deform_groups: of channels that share offsets.
        bias: whether there is one; mmcv's has none.
        boundary_grad: as in ``cudeform.options``.

    Example:
        >>> import torch
        >>> layer = DeformConv2dPack(3, 8, 3, padding=1)
        >>> layer(torch.randn(1, 3, 16, 16)).shape
        torch.Size([1, 8, 16, 16])
    """

    predicted = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        *,
        boundary_grad: str | None = "zero",
    ) -> None:
        """Make the layer; its offsets begin at zero."""
        sizes = (kernel_size, stride, padding, dilation, groups, deform_groups, bias)
        super().__init__(in_channels, out_channels, *sizes, boundary_grad=boundary_grad)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) to (N, O, OH, OW)."""
        return super().forward(input, self.conv_offset(input))


class ModulatedDeformConv2dPack(_Pack):
    """DCNv2 that predicts its own offsets and mask: ``mmcv.ops.ModulatedDeformConv2dPack``.

    The branch gives two thirds offsets, and one third of which the sigmoid is the mask.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, dilation: as for ``torch.nn.Conv2d``.
        groups: of channels and filters.
        deform_groups: of channels that share offsets and mask.
        bias: whether there is one.
        boundary_grad: as in ``cudeform.options``.

    Example:
        >>> import torch
        >>> layer = ModulatedDeformConv2dPack(3, 8, 3, padding=1, deform_groups=3)
        >>> layer(torch.randn(1, 3, 16, 16)).shape
        torch.Size([1, 8, 16, 16])
    """

    predicted = 3

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) to (N, O, OH, OW)."""
        first, second, mask = self.conv_offset(input).chunk(3, dim=1)
        # The two halves are joined as they are: pairs (dy, dx) run across the seam.
        return super().forward(input, torch.cat((first, second), dim=1), mask.sigmoid())
