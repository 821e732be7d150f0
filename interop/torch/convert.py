"""Turn torchvision's layers in an existing model into this library's."""

from __future__ import annotations

import sys

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .nn import DeformConv2d


def replace_torchvision(model: nn.Module) -> nn.Module:
    """Turn every ``torchvision.ops.DeformConv2d`` in a model into this library's layer.

    The layers stay the same objects and change their class: parameters, hooks, parametrisations and
    everything else that they had stay, and so does every reference to them. Instances of derived
    classes stay as they are: they may do more than a deformable convolution.

    Args:
        model: changed in place. Its parameters stay the same objects, so an optimiser that holds
            them keeps working.

    Returns:
        The model.
    """
    torchvision_layer = getattr(sys.modules.get("torchvision.ops"), "DeformConv2d", None)
    if torchvision_layer is None:  # torchvision is not imported: the model has none of its layers
        return model
    classes: dict[type, type] = {torchvision_layer: DeformConv2d}
    for module in list(model.modules()):
        found = type(module)
        if is_parametrized(module) and found.__bases__ == (torchvision_layer,):
            classes.setdefault(found, _with_base(found, DeformConv2d))
        if found in classes:
            module.__class__ = classes[found]
            module.boundary_grad = None
    return model


def _with_base(parametrized: type, base: type) -> type:
    """The class that torch made for a layer with parametrisations, derived from another class."""
    automatic = ("__dict__", "__weakref__")
    members = {name: m for name, m in vars(parametrized).items() if name not in automatic}
    return type(parametrized.__name__, (base,), members)
