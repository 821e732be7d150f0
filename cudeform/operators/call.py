"""What the functions that users call have in common: check, hand over to the adapter.

What does not depend on the library of the arrays is checked here, all else by its adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import Operands
from cudeform.interop.adapter import adapter_of
from cudeform.spec import AnySettings, Operator


def forward(operator: Operator, operands: Operands, settings: AnySettings) -> Any:
    """The output."""
    adapter = adapter_of(operator.present(operands))
    return adapter.forward(operator, operands, _resolved(operator, operands, settings))


def backward(
    operator: Operator,
    operands: Operands,
    settings: AnySettings,
    grad_output: Any,
    needs: Sequence[str],
) -> Any:
    """The gradients that ``needs`` names."""
    needed = operator.needed(needs, operator.gradients, operands)
    adapter = adapter_of(operator.present(operands) | {"grad_output": grad_output})
    resolved = _resolved(operator, operands, settings)
    return operator.results(adapter.backward(operator, operands, resolved, grad_output, needed))


def jvp(operator: Operator, operands: Operands, settings: AnySettings, tangents: Any) -> Any:
    """The tangent of the output."""
    tangents = operator.directions(tangents, operands)
    adapter = adapter_of(operator.present(operands) | operator.named(tangents.present()))
    return adapter.jvp(operator, operands, _resolved(operator, operands, settings), tangents)


def double_backward(
    operator: Operator,
    operands: Operands,
    settings: AnySettings,
    grad_output: Any,
    cotangents: Any,
    needs: Sequence[str],
) -> Any:
    """The gradients of the gradients that ``needs`` names."""
    needed = operator.needed(needs, operator.double_gradients, operands)
    cotangents = operator.directions(cotangents, operands)
    others = cotangents.present() | {"grad_output": grad_output}
    adapter = adapter_of(operator.present(operands) | operator.named(others))
    resolved = _resolved(operator, operands, settings)
    directions = grad_output, cotangents
    return operator.results(
        adapter.double_backward(operator, operands, resolved, *directions, needed)
    )


def _resolved(operator: Operator, operands: Operands, settings: AnySettings) -> AnySettings:
    return settings.resolved(operands.input, operands.weight, operator.axes)
