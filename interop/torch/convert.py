"""Conversion of torchvision's layers in an existing model to cudeform's."""

from __future__ import annotations

import sys

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .nn import DeformConv2d


def replace_torchvision(model: nn.Module) -> nn.Module:
    """Convert every ``torchvision.ops.DeformConv2d`` in a model to cudeform's layer.

    The function changes the class of the layers, which remain the same objects. So parameters,
    hooks, parametrisations and all references to the layers are preserved. Instances of derived
    classes are not converted, because they may do more than a deformable convolution.

    Args:
        model: the model, which is changed in place. Its parameters remain the same objects, so an
            optimiser that refers to them keeps working.

    Returns:
        The model.
    """
    torchvision_layer = getattr(sys.modules.get("torchvision.ops"), "DeformConv2d", None)
    if torchvision_layer is None:  # without torchvision, the model has none of its layers
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
    """Derive torch's class for a layer with parametrisations from another base class."""
    automatic = ("__dict__", "__weakref__")
    members = {name: m for name, m in vars(parametrized).items() if name not in automatic}
    return type(parametrized.__name__, (base,), members)
