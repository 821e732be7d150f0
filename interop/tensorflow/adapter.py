"""The adapter for tensors and variables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tensorflow as tf

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.options import Options, current
from cudeform.spec import AnySettings, Operator

from . import derivatives
from .call import Call
from .layout import CHANNELS_FIRST, Layout
from .private import is_deterministic

# Without this, AutoGraph would rewrite the functions that a traced call calls.
unchanged = tf.autograph.experimental.do_not_convert


class TensorflowAdapter:
    """Runs calls on eager tensors, and adds nodes for calls on symbolic tensors to the graph."""

    @unchanged  # type: ignore[untyped-decorator]
    def forward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        layout: Layout = CHANNELS_FIRST,
    ) -> Any:
        """The output."""
        return derivatives.forward(_call(operator, settings, layout), _tensors(operands.present()))

    @unchanged  # type: ignore[untyped-decorator]
    def backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``."""
        tensors = _tensors(operands.present())
        return Gradients(
            **derivatives.backward(_call(operator, settings), tensors, grad_output, needs)
        )

    @unchanged  # type: ignore[untyped-decorator]
    def jvp(
        self, operator: Operator, operands: Operands, settings: AnySettings, tangents: Tangents
    ) -> Any:
        """The tangent of the output."""
        tensors, directions = _tensors(operands.present()), _tensors(tangents.present())
        return derivatives.jvp(_call(operator, settings), tensors, directions)

    @unchanged  # type: ignore[untyped-decorator]
    def double_backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of the gradients named in ``needs``."""
        tensors = _tensors(operands.present() | {"grad_output": grad_output})
        directions = _tensors(cotangents.present())
        call = _call(operator, settings)
        return DoubleGradients(**derivatives.double_backward(call, tensors, directions, needs))


ADAPTER = TensorflowAdapter()


def _call(operator: Operator, settings: AnySettings, layout: Layout = CHANNELS_FIRST) -> Call:
    return Call(operator, settings, _options(), layout)


def _options() -> Options:
    """The options in force; deterministic if TensorFlow's own switch says so."""
    options = current()
    return replace(options, deterministic=True) if is_deterministic() else options


def _tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    """Convert variables to tensors; a tape records that they were read."""
    return {name: tf.convert_to_tensor(array) for name, array in arrays.items()}
