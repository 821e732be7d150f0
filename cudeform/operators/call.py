"""What the functions that users call have in common: check, hand over to the adapter.

What does not depend on the library of the arrays is checked here, all else by its adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS, check_needs, check_tangents
from cudeform.family import AnySettings, Operator
from cudeform.interop.adapter import adapter_of


def forward(operator: Operator, operands: Operands, settings: AnySettings) -> Any:
    """The output."""
    adapter = adapter_of(operands.present())
    return adapter.forward(operator, operands, _resolved(operator, operands, settings))


def backward(
    operator: Operator,
    operands: Operands,
    settings: AnySettings,
    grad_output: Any,
    needs: Sequence[str],
) -> Gradients:
    """The gradients that ``needs`` names."""
    needed = check_needs(needs, GRADIENTS, operands)
    adapter = adapter_of(operands.present() | {"grad_output": grad_output})
    resolved = _resolved(operator, operands, settings)
    return adapter.backward(operator, operands, resolved, grad_output, needed)


def jvp(operator: Operator, operands: Operands, settings: AnySettings, tangents: Tangents) -> Any:
    """The tangent of the output."""
    tangents = check_tangents(tangents, operands)
    adapter = adapter_of(operands.present() | tangents.present())
    return adapter.jvp(operator, operands, _resolved(operator, operands, settings), tangents)


def double_backward(
    operator: Operator,
    operands: Operands,
    settings: AnySettings,
    grad_output: Any,
    cotangents: Tangents,
    needs: Sequence[str],
) -> DoubleGradients:
    """The gradients of the gradients that ``needs`` names."""
    needed = check_needs(needs, DOUBLE_GRADIENTS, operands)
    cotangents = check_tangents(cotangents, operands)
    others = cotangents.present() | {"grad_output": grad_output}
    adapter = adapter_of(operands.present() | others)
    resolved = _resolved(operator, operands, settings)
    directions = grad_output, cotangents
    return adapter.double_backward(operator, operands, resolved, *directions, needed)


def _resolved(operator: Operator, operands: Operands, settings: AnySettings) -> AnySettings:
    return settings.resolved(operands.input, operands.weight, operator.axes)
