"""Conversion of layers of torchvision and mmcv in an existing model to cudeform's.

A conversion changes the class of a layer, which remains the same object. So parameters, hooks,
parametrisations and all references to the layer are preserved.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .nn import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack, accept_sibling_branches
from .sums.attention import MultiScaleDeformableAttention

MMCV = {
    "DeformConv2d": DeformConv2d,
    "DeformConv2dPack": DeformConv2dPack,
    "ModulatedDeformConv2d": DeformConv2d,
    "ModulatedDeformConv2dPack": ModulatedDeformConv2dPack,
    "MultiScaleDeformableAttention": MultiScaleDeformableAttention,
}


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
    _convert(model, _named("torchvision.ops", {"DeformConv2d": DeformConv2d}), None)
    return model


def replace_mmcv(model: nn.Module) -> nn.Module:
    """Convert the deformable layers of ``mmcv.ops`` in a model to cudeform's.

    These are ``MultiScaleDeformableAttention``, ``DeformConv2d``, ``ModulatedDeformConv2d`` and the
    packs of the two. The function changes their class; they remain the same objects, with their
    parameters, hooks and parametrisations. Instances of derived classes are not converted. The
    gradient of an offset at the image's edge stays that of mmcv, see ``boundary_grad`` in
    ``cudeform.options``.

    mmcv's ``DeformConv2d`` and ``ModulatedDeformConv2d`` call their first argument ``x``, which
    must be passed by position from now on.

    Args:
        model: the model, which is changed in place. Its parameters remain the same objects, so an
            optimiser that refers to them keeps working.

    Returns:
        The model.
    """
    for layer in _convert(model, _named("mmcv.ops", MMCV), "zero"):
        if not hasattr(layer, "bias") and isinstance(layer, DeformConv2d):
            layer.register_parameter("bias", None)  # mmcv's DCNv1 has none
    accept_sibling_branches(model)
    return model


def _named(module: str, classes: Mapping[str, type]) -> dict[type, type]:
    """The classes of a library by which a model's are replaced; none if it is not imported."""
    library = sys.modules.get(module)
    found = {getattr(library, name, None): ours for name, ours in classes.items()}
    return {theirs: ours for theirs, ours in found.items() if theirs is not None}


def _convert(
    model: nn.Module, classes: Mapping[type, type], boundary_grad: str | None
) -> list[Any]:
    """Change the class of every layer of one of the classes; the converted layers."""
    parametrized: dict[type, type] = {}
    converted = []
    for module in list(model.modules()):
        found = type(module)
        if is_parametrized(module) and found.__bases__[0] in classes:
            ours = classes[found.__bases__[0]]
            target = parametrized.setdefault(found, _with_base(found, ours))
        elif found in classes:
            target = classes[found]
        else:
            continue
        module.__class__ = target
        module.boundary_grad = boundary_grad
        converted.append(module)
    return converted


def _with_base(parametrized: type, base: type) -> type:
    """Derive torch's class for a layer with parametrisations from another base class."""
    automatic = ("__dict__", "__weakref__")
    members = {name: m for name, m in vars(parametrized).items() if name not in automatic}
    return type(parametrized.__name__, (base,), members)
