"""Replace torchvision's layers in an existing model."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from .nn import DeformConv2d


def replace_torchvision(model: nn.Module) -> nn.Module:
    """Swap every ``torchvision.ops.DeformConv2d`` in a model for this library's, weights shared.

    Instances of derived classes stay: they may do more than a deformable convolution.

    Args:
        model: changed in place. Its parameters stay the same objects, so an optimiser that holds
            them keeps working.

    Returns:
        The model; a new layer if it is itself one of torchvision's.
    """
    torchvision_layer = getattr(sys.modules.get("torchvision.ops"), "DeformConv2d", None)
    if torchvision_layer is None:  # torchvision is not imported: the model has none of its layers
        return model
    layers = [module for module in model.modules() if type(module) is torchvision_layer]
    replacements = {layer: _replacement(layer) for layer in layers}
    for module in list(model.modules()):
        # named_children would yield a layer that occurs twice only once.
        for name, child in list(module._modules.items()):
            if child in replacements:
                setattr(module, name, replacements[child])
    return replacements.get(model, model)


def _replacement(layer: Any) -> DeformConv2d:
    replacement = DeformConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
    )
    replacement.weight, replacement.bias = layer.weight, layer.bias
    replacement.train(layer.training)
    return replacement
