"""FLOP formulas of the operators for ``torch.utils.flop_counter``.

As in torch's formulas for convolutions, only the matrix products count. The import of the counter
takes a tenth of a second, so the formulas are registered only after something else imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def _product(output: Any, weight: Any) -> int:
    """FLOPs of the product of a weight and its columns."""
    return int(2 * prod(output) * prod(weight[1:]))


def _forward(_: Any, __: Any, weight: Any, *rest: Any, out_shape: Any) -> int:
    return _product(out_shape, weight)


def _backward(grad_output: Any, *args: Any, out_shape: Any) -> int:
    weight, needs = args[2], args[5]
    of_columns = needs[0] or needs[1] or needs[4]
    return _product(grad_output, weight) * (bool(of_columns) + bool(needs[2]))


def _jvp(*args: Any, out_shape: Any) -> int:
    return _product(out_shape, args[2]) * sum(_kinds(args[4:9]))


def _double_backward(grad_output: Any, *args: Any, out_shape: Any) -> int:
    weight, needs = args[2], args[9]
    columns, filters = _kinds(args[4:9])
    of_columns = needs[1] or needs[2] or needs[4]
    products = (columns + filters) * (bool(needs[0]) + bool(of_columns))
    return _product(grad_output, weight) * (products + (columns and bool(needs[3])))


def _kinds(tangents: Any) -> tuple[bool, bool]:
    """Whether the columns have a tangent, and whether the weight has one."""
    input, offset, weight, _, mask = (tangent is not None for tangent in tangents)
    return input or offset or mask, weight


FORMULAS: dict[str, Callable[..., int]] = {
    "deform_conv2d": _forward,
    "deform_conv2d_backward": _backward,
    "deform_conv2d_jvp": _jvp,
    "deform_conv2d_double_backward": _double_backward,
}


def register() -> None:
    """Register the formulas with torch and with the active counters, if there are any."""
    counting: Any = sys.modules.get("torch.utils.flop_counter")
    if counting is None:
        return
    registries = [counting.flop_registry]
    for mode in _get_current_dispatch_mode_stack():
        registry = getattr(getattr(mode, "counter", None), "flop_registry", None)
        if registry is not None:
            registries.append(registry)
    for name, formula in FORMULAS.items():
        for registry in registries:
            registry.setdefault(getattr(torch.ops.cudeform, name), counting.shape_wrapper(formula))
