"""Replace torchvision's layers in a model that is there already."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from .nn import DeformConv2d


def replace_torchvision(model: nn.Module) -> nn.Module:
    """Swap every ``torchvision.ops.DeformConv2d`` in a model for this library's, weights shared.

    Classes derived from it stay: what they add, such as a branch that predicts offsets, is theirs.

    Args:
        model: changed in place. Its parameters stay the same objects, so an optimiser that holds
            them goes on.

    Returns:
        The model; a new layer if it is itself one of torchvision's.
    """
    theirs = getattr(sys.modules.get("torchvision.ops"), "DeformConv2d", None)
    if theirs is None:  # without torchvision there can be none of its layers
        return model
    layers = [module for module in model.modules() if type(module) is theirs]
    twins = {layer: _twin(layer) for layer in layers}
    for module in list(model.modules()):
        # Not named_children, which gives a layer that is there twice once.
        for name, child in list(module._modules.items()):
            if child in twins:
                setattr(module, name, twins[child])
    return twins.get(model, model)


def _twin(layer: Any) -> DeformConv2d:
    twin = DeformConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
    )
    twin.weight, twin.bias = layer.weight, layer.bias
    twin.train(layer.training)
    return twin
