"""Layers: torchvision's deformable convolution, and mmcv's layers that predict their own offsets.

The constructors and the names of the parameters are those of the original layers, so state dicts
load both ways. mmcv's layers, ``DeformConv2dPack`` and ``ModulatedDeformConv2dPack``, have a branch
``conv_offset``, initialised to zero. By default their gradient of the offset at the image's edge is
mmcv's; ``boundary_grad`` changes it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from cudeform.settings import Ints, Padding, as_ints, as_padding, plain

from .functional import deform_conv2d
from .views import Tensor


class DeformConv2d(nn.Module):  # type: ignore[misc]
    """Deformable convolution with weight and bias: ``torchvision.ops.DeformConv2d``.

    Constructor, parameters and results are torchvision's, and a state dict of either loads into the
    other.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size: vertical and horizontal, or one number for both.
        stride, padding, dilation: as for ``cudeform.deform_conv2d``.
        groups: groups of channels and filters.
        bias: whether the layer has a bias.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.
    """

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
        """Make the layer and initialise its parameters."""
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"groups = {groups} must divide {name}, got {channels}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = as_ints("kernel_size", kernel_size, 1, 2)
        self.stride = as_ints("stride", stride, 1, 2)
        self.padding = plain(padding)
        self.dilation = as_ints("dilation", dilation, 1, 2)
        if isinstance(padding, str):
            self.padding = as_padding(padding, 2, self.kernel_size, self.stride, self.dilation)
        self.groups = groups
        self.boundary_grad = boundary_grad
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias randomly, as ``torch.nn.Conv2d`` does."""
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
        """The constructor's arguments that differ from the default."""
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


class _Pack(DeformConv2d):
    """A deformable convolution whose offsets are predicted from its input by a convolution."""

    # Number of channels that the branch predicts for each tap and offset group.
    predicted: int

    # In version 1 the branch was a sibling of the layer: ``<name>_offset``.
    _version = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
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
            padding if isinstance(padding, str) else self.padding,
            self.dilation,
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)
        _watch_registrations()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        is_old = (local_metadata.get("version") or 1) < 2
        for name in ("weight", "bias"):
            renamed, sibling = f"{prefix}{_SIBLING}.{name}", f"{prefix[:-1]}_offset.{name}"
            if renamed not in state_dict:
                continue
            tensor = state_dict.pop(renamed)
            if is_old:
                state_dict[f"{prefix}conv_offset.{name}"] = tensor
            elif strict:
                unexpected_keys.append(sibling)
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def extra_repr(self) -> str:
        """The constructor's arguments that differ from the default."""
        groups = f", deform_groups={self.deform_groups}" if self.deform_groups > 1 else ""
        return super().extra_repr() + groups


class DeformConv2dPack(_Pack):
    """DCNv1 that predicts its own offsets: ``mmcv.ops.DeformConv2dPack``.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, dilation: as for ``torch.nn.Conv2d``.
        groups: groups of channels and filters.
        deform_groups: groups of channels that share offsets.
        bias: whether the layer has a bias; mmcv's has none.
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
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        *,
        boundary_grad: str | None = "zero",
    ) -> None:
        """Make the layer; its offsets are initially zero."""
        sizes = (kernel_size, stride, padding, dilation, groups, deform_groups, bias)
        super().__init__(in_channels, out_channels, *sizes, boundary_grad=boundary_grad)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) to (N, O, OH, OW)."""
        return super().forward(input, self.conv_offset(input))


class ModulatedDeformConv2dPack(_Pack):
    """DCNv2 that predicts its own offsets and mask: ``mmcv.ops.ModulatedDeformConv2dPack``.

    Two thirds of the branch's channels are offsets; the sigmoid of the last third is the mask.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel_size, stride, padding, dilation: as for ``torch.nn.Conv2d``.
        groups: groups of channels and filters.
        deform_groups: groups of channels that share offsets and mask.
        bias: whether the layer has a bias.
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
        # mmcv concatenates the two halves, which are not dy and dx, to a sequence of (dy, dx)
        # pairs.
        return super().forward(input, torch.cat((first, second), dim=1), mask.sigmoid())


# torch passes only its own keys to a layer. So the module that contains the layer renames the keys
# of the sibling branch to keys of the layer that contain this word.
_SIBLING = "_sibling_branch"


def _rename_siblings(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the keys of sibling branches to keys of the layers, which know their version."""
    for name, child in module._modules.items():
        if not isinstance(child, _Pack) or f"{name}_offset" in module._modules:
            continue
        for kind in ("weight", "bias"):
            sibling = f"{prefix}{name}_offset.{kind}"
            if sibling in state_dict and f"{prefix}{name}.conv_offset.{kind}" not in state_dict:
                state_dict[f"{prefix}{name}.{_SIBLING}.{kind}"] = state_dict.pop(sibling)


def _on_registration(module: nn.Module, _: str, child: Any) -> None:
    if not isinstance(child, _Pack):
        return
    hooks = module._load_state_dict_pre_hooks.values()
    if all(getattr(hook, "hook", None) is not _rename_siblings for hook in hooks):
        module._register_load_state_dict_pre_hook(_rename_siblings, with_module=True)


def accept_sibling_branches(model: nn.Module) -> None:
    """Let every pack in a model load state dicts of version 1, whoever put it there."""
    for module in model.modules():
        for name, child in module.named_children():
            _on_registration(module, name, child)


@cache
def _watch_registrations() -> None:
    """Register a global hook, with the first pack, that torch calls for each registered module."""
    register_module_module_registration_hook(_on_registration)
