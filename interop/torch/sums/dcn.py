"""The layers DCNv3 of InternImage and DCNv4, which predict their own offsets and masks.

Constructors and names of parameters are those of the original layers, so their state dicts load.
Arrays are channels-last. Both layers predict offsets at the positions of their input, so the output
has the input's height and width.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import nn

from cudeform.arrays import Operands
from cudeform.family import DCNV3, DCNV4
from cudeform.sums.settings import DCNv3Settings, DCNv4Settings, scale_parts

from ..adapter import ADAPTER
from ..views import Tensor

ACTIVATIONS = {"ReLU": nn.ReLU, "SiLU": nn.SiLU, "GELU": nn.GELU}
ROW_MULTIPLE = 8  # the channels that DCNv4 predicts are padded to a multiple of it


class _ChannelsLast(nn.Module):  # type: ignore[misc]
    """(N, C, H, W) to (N, H, W, C)."""

    def forward(self, input: Tensor) -> Tensor:
        return input.permute(0, 2, 3, 1)


class _DCN(nn.Module):  # type: ignore[misc]
    """What DCNv3 and DCNv4 have in common: sizes, and the share of the undisplaced input."""

    def _set_sizes(
        self,
        channels: int,
        kernel_size: int,
        stride: int,
        pad: int,
        dilation: int,
        group: int,
        offset_scale: float,
        remove_center: bool,
        boundary_grad: str | None,
    ) -> None:
        if channels % group:
            raise ValueError(f"group = {group} must divide channels, got {channels}")
        if stride != 1 or 2 * pad != dilation * (kernel_size - 1):
            raise ValueError(
                "offsets are predicted at the positions of the input, so the output must have its "
                "size: stride must be 1 and 2*pad = dilation*(kernel_size - 1), "
                f"got stride = {stride}, pad = {pad}, dilation = {dilation}, "
                f"kernel_size = {kernel_size}"
            )
        self.channels, self.group = channels, group
        self.grid = DCNv3Settings(
            kernel_size, stride, pad, dilation, float(offset_scale), bool(remove_center)
        )
        self.grid.packed(2)  # refuses an impossible kernel
        # torch.compile with dynamic=True makes a symbol of a float, but not of integers.
        self.settings: Any = self.grid._replace(offset_scale=scale_parts(offset_scale))
        self.taps = kernel_size * kernel_size - bool(remove_center)
        self.boundary_grad = boundary_grad

    def _make_center_feature_scale(self, present: bool) -> None:
        self.center_feature_scale = present
        if present:
            weight, bias = torch.zeros(self.group, self.channels), torch.zeros(self.group)
            self.center_feature_scale_proj_weight = nn.Parameter(weight)
            self.center_feature_scale_proj_bias = nn.Parameter(bias)

    def _mix(self, sampled: Tensor, plain: Tensor, query: Tensor) -> Tensor:
        """For each group, a share of the undisplaced input, predicted from ``query``."""
        if not self.center_feature_scale:
            return sampled
        share = nn.functional.linear(
            query, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
        ).sigmoid()
        share = share.repeat_interleave(self.channels // self.group, dim=-1)
        return sampled * (1 - share) + plain * share

    def extra_repr(self) -> str:
        """Channels, groups and the settings of the operator."""
        named = {"group": self.group, **self.grid._asdict()}
        named |= {"center_feature_scale": self.center_feature_scale}
        return f"{self.channels}" + "".join(f", {name}={value}" for name, value in named.items())


class DCNv3(_DCN):
    """InternImage's layer: a softmax over the taps of each group, offsets from a depthwise branch.

    Args:
        channels: of input and output.
        kernel_size: rows and columns of taps.
        dw_kernel_size: kernel of the branch ``dw_conv``; None for ``kernel_size``.
        stride, pad, dilation: as for ``cudeform.dcnv3``; the output must have the input's size.
        group: groups of channels with offsets of their own.
        offset_scale: as for ``cudeform.dcnv3``.
        act_layer: "GELU", "SiLU" or "ReLU", of the branch.
        norm_layer: "LN" or "BN", of the branch.
        center_feature_scale: whether each group gets a learned share of the undisplaced input.
        remove_center: whether the tap in the centre is left out.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> DCNv3(32, group=4)(torch.randn(1, 14, 14, 32)).shape
        torch.Size([1, 14, 14, 32])
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        act_layer: str = "GELU",
        norm_layer: str = "LN",
        center_feature_scale: bool = False,
        remove_center: bool = False,
        *,
        boundary_grad: str | None = "zero",
    ) -> None:
        """Make the layer; its offsets are initially zero and its masks equal."""
        super().__init__()
        sizes = (kernel_size, stride, pad, dilation, group, offset_scale, remove_center)
        self._set_sizes(channels, *sizes, boundary_grad)
        self.dw_conv = _branch(channels, dw_kernel_size or kernel_size, act_layer, norm_layer)
        self.offset = nn.Linear(channels, group * self.taps * 2)
        self.mask = nn.Linear(channels, group * self.taps)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        _initialise((self.offset, self.mask), (self.input_proj, self.output_proj))
        self._make_center_feature_scale(center_feature_scale)

    def forward(self, input: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H, W, C)."""
        if input.ndim != 4:
            raise ValueError(f"input must be (N, H, W, C), got {tuple(input.shape)}")
        plain = self.input_proj(input)
        branch = self.dw_conv(input.permute(0, 3, 1, 2))
        mask = self.mask(branch).unflatten(-1, (self.group, self.taps)).softmax(-1).flatten(-2)
        operands = Operands(plain, self.offset(branch), mask=mask)
        sampled = ADAPTER.forward(DCNV3, operands, self.settings, self.boundary_grad)
        return self.output_proj(self._mix(sampled, plain, branch))


class DCNv4(_DCN):
    """The layer of DCNv4: as DCNv3, with one projection for offsets and masks, and no softmax.

    Args:
        channels: of input and output.
        kernel_size: rows and columns of taps.
        stride, pad, dilation: as for ``cudeform.dcnv4``; the output must have the input's size.
        group: groups of channels with offsets of their own.
        offset_scale: as for ``cudeform.dcnv4``.
        dw_kernel_size: kernel of a depthwise convolution ``offset_mask_dw`` in front of the
            projection; None for no such convolution.
        center_feature_scale: whether each group gets a learned share of the undisplaced input.
        remove_center: whether the tap in the centre is left out.
        output_bias: whether the last projection has a bias.
        without_pointwise: whether the projections before and after sampling are left out.
        act_layer, norm_layer: accepted for the models of DCNv4; without effect, as there.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> DCNv4(32, group=2)(torch.randn(1, 14 * 10, 32), shape=(14, 10)).shape
        torch.Size([1, 140, 32])
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        output_bias: bool = True,
        without_pointwise: bool = False,
        *,
        act_layer: Any = None,
        norm_layer: Any = None,
        boundary_grad: str | None = "zero",
    ) -> None:
        """Make the layer; its offsets and masks are initially zero, as in DCNv4."""
        super().__init__()
        sizes = (kernel_size, stride, pad, dilation, group, offset_scale, remove_center)
        self._set_sizes(channels, *sizes, boundary_grad)
        self.settings = DCNv4Settings(kernel_size, group, *self.settings[1:])
        self.dw_kernel_size, self.without_pointwise = dw_kernel_size, without_pointwise
        if dw_kernel_size is not None:
            self.offset_mask_dw = _depthwise(channels, dw_kernel_size)
        row = group * self.taps * 3
        self.offset_mask = nn.Linear(channels, row + -row % ROW_MULTIPLE)
        projections: tuple[Any, ...] = ()
        if not without_pointwise:
            self.value_proj = nn.Linear(channels, channels)
            self.output_proj = nn.Linear(channels, channels, bias=output_bias)
            projections = (self.value_proj, self.output_proj)
        _initialise((self.offset_mask,), projections)
        self._make_center_feature_scale(center_feature_scale)

    def forward(self, input: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """(N, H*W, C) to (N, H*W, C); ``shape`` is (H, W), None for a square."""
        size = shape or (isqrt(input.shape[1]),) * 2
        if size[0] * size[1] != input.shape[1]:
            raise ValueError(
                f"input must be (N, H*W, C), with H*W = {size[0]}*{size[1]} for "
                f"{'a square' if shape is None else 'shape'}, got {tuple(input.shape)}"
            )
        pixels = input.unflatten(1, size)
        plain = pixels if self.without_pointwise else self.value_proj(pixels)
        branch = pixels
        if self.dw_kernel_size is not None:
            branch = self.offset_mask_dw(pixels.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        operands = Operands(plain, self.offset_mask(branch))
        sampled = ADAPTER.forward(DCNV4, operands, self.settings, self.boundary_grad)
        output = self._mix(sampled, plain, sampled).flatten(1, 2)
        return output if self.without_pointwise else self.output_proj(output)


def _branch(channels: int, kernel: int, activation: str, norm: str) -> Any:
    """A depthwise convolution, norm and activation: (N, C, H, W) to (N, H, W, C)."""
    for name, value, known in (
        ("act_layer", activation, tuple(ACTIVATIONS)),
        ("norm_layer", norm, ("LN", "BN")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    # The positions of the layers give the names of their parameters: LN is dw_conv.1.1, BN is
    # dw_conv.1.0.
    if norm == "LN":
        layers = (_ChannelsLast(), nn.LayerNorm(channels, eps=1e-6))
    else:
        layers = (nn.BatchNorm2d(channels), _ChannelsLast())
    return nn.Sequential(
        _depthwise(channels, kernel), nn.Sequential(*layers), ACTIVATIONS[activation]()
    )


def _depthwise(channels: int, kernel: int) -> Any:
    return nn.Conv2d(channels, channels, kernel, padding=(kernel - 1) // 2, groups=channels)


def _initialise(predicting: tuple[Any, ...], projections: tuple[Any, ...]) -> None:
    """Zero what predicts offsets and masks, and initialise the other projections as Xavier does."""
    for layer in predicting:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for layer in projections:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
