"""What the functions that users call have in common: pack, check, hand over to the adapter.

What does not depend on the library of the arrays is checked here, all else by its adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DOUBLE_GRADIENTS, GRADIENTS, check_needs, check_tangents
from cudeform.interop.adapter import adapter_of
from cudeform.settings import Settings, settings_of


def forward(operands: Operands, settings: Settings) -> Any:
    """The output."""
    return adapter_of(operands.present()).forward(operands, _resolved(operands, settings))


def backward(
    operands: Operands, settings: Settings, grad_output: Any, needs: Sequence[str]
) -> Gradients:
    """The gradients that ``needs`` names."""
    needed = check_needs(needs, GRADIENTS, operands)
    adapter = adapter_of(operands.present() | {"grad_output": grad_output})
    return adapter.backward(operands, _resolved(operands, settings), grad_output, needed)


def jvp(operands: Operands, settings: Settings, tangents: Tangents) -> Any:
    """The tangent of the output."""
    tangents = check_tangents(tangents, operands)
    adapter = adapter_of(operands.present() | tangents.present())
    return adapter.jvp(operands, _resolved(operands, settings), tangents)


def double_backward(
    operands: Operands,
    settings: Settings,
    grad_output: Any,
    cotangents: Tangents,
    needs: Sequence[str],
) -> DoubleGradients:
    """The gradients of the gradients that ``needs`` names."""
    needed = check_needs(needs, DOUBLE_GRADIENTS, operands)
    cotangents = check_tangents(cotangents, operands)
    others = cotangents.present() | {"grad_output": grad_output}
    adapter = adapter_of(operands.present() | others)
    resolved = _resolved(operands, settings)
    return adapter.double_backward(operands, resolved, grad_output, cotangents, needed)


def _resolved(operands: Operands, settings: Settings) -> Settings:
    return settings_of(operands.input, operands.weight, *settings)
