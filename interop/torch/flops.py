"""FLOP formulas of the operators for ``torch.utils.flop_counter``.

As in torch's formulas for convolutions, only the matrix products count. The import of the counter
takes a tenth of a second, so the formulas are registered only after something else imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from cudeform.family import OPERATORS
from cudeform.spec import IMAGES, Operator

# The formulas are those of a convolution: a product multiplies each element of the weight once per
# output position. A transposed convolution has input positions in place of output positions. In
# both, the shape of the offset ends with the sizes of the positions. Operators without filters have
# no products.


def _product(offset: Any, weight: Any) -> int:
    """FLOPs of the product of a weight and its columns."""
    return int(2 * offset[0] * prod(offset[2:]) * prod(weight))


def _forward(_: Operator, __: Any, offset: Any, weight: Any, *rest: Any, out_shape: Any) -> int:
    return _product(offset, weight)


def _backward(operator: Operator, *args: Any, out_shape: Any) -> int:
    offset, weight, needs = args[2], args[3], args[6]
    return _product(offset, weight) * sum(_products(operator, needs))


def _products(operator: Operator, needs: Any) -> tuple[bool, ...]:
    """Which of the products of a backward are needed for the requested gradients."""
    input, offset, filters, _, mask = needs
    if operator.output == IMAGES:  # the input's gradient is the forward of a convolution
        return bool(input), bool(offset or mask), bool(filters)
    return bool(input or offset or mask), bool(filters)


def _jvp(operator: Operator, *args: Any, out_shape: Any) -> int:
    along, filters = _kinds(operator, args[4:9])
    return _product(args[1], args[2]) * (along + filters)


def _double_backward(operator: Operator, *args: Any, out_shape: Any) -> int:
    offset, weight, tangents = args[2], args[3], args[5:10]
    of_output, of_input, of_offset, of_weight, of_mask = map(bool, args[10])
    first = 0
    if operator.output == IMAGES:
        # The input of the underlying convolution is the grad_output of this call. One of its
        # backward calls has the tangent of this call's input as grad_output.
        of_output, of_input = of_input, of_output
        if tangents[0] is not None:
            first = (of_input or of_offset or of_mask) + of_weight
        tangents = (None, *tangents[1:])
    input, along, filters, _, mask = (tangent is not None for tangent in tangents)
    columns = input or along or mask
    products = (columns + filters) * (of_output + (of_input or of_offset or of_mask))
    return _product(offset, weight) * (first + products + (columns and of_weight))


def _kinds(operator: Operator, tangents: Any) -> tuple[int, int]:
    """Numbers of products with the tangent of the columns, and with the tangent of the weight."""
    input, offset, weight, _, mask = (tangent is not None for tangent in tangents)
    if operator.output == IMAGES:
        return int(input) + int(offset or mask), int(weight)
    return int(input or offset or mask), int(weight)


FORMULAS: dict[str, Callable[..., int]] = {
    f"{operator.name}{suffix}": partial(formula, operator)
    for operator in OPERATORS.values()
    if operator.parameters
    for suffix, formula in (
        ("", _forward),
        ("_backward", _backward),
        ("_jvp", _jvp),
        ("_double_backward", _double_backward),
    )
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
