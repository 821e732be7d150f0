"""The derivatives that TensorFlow finds: each operation's gradient is another operation.

The gradient of the forward is the backward, that of the backward and of the jvp the double
backward, which has none. Eager calls that nothing watches skip all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from cudeform.arrays import DoubleGradients

from .call import OPERANDS, TANGENT, Call, Tensors
from .private import has_tangents, recorded

Named = dict[str, Any]


def forward(call: Call, operands: Tensors) -> Any:
    """The deformable convolution."""

    def gradient(named: Tensors, needs: frozenset[str], cotangents: Sequence[Any]) -> Named:
        return backward(call, named, cotangents[0], needs)

    return _differentiable(call, "forward", operands, ["output"], gradient)["output"]


def backward(call: Call, operands: Tensors, grad_output: Any, needs: frozenset[str]) -> Named:
    """The gradients of the operands in ``needs``, by name."""
    tensors = {**operands, "grad_output": tf.convert_to_tensor(grad_output)}
    results = [name for name in operands if name in needs]

    def gradient(named: Tensors, needs: frozenset[str], cotangents: Sequence[Any]) -> Named:
        directions = zip(results, cotangents, strict=True)
        return double_backward(call, named, _as_tangents(directions), needs)

    return _differentiable(call, "backward", tensors, results, gradient)


def double_backward(
    call: Call, tensors: Tensors, cotangents: Tensors, needs: frozenset[str]
) -> Named:
    """The gradients of ``sum(cotangents * backward(...))`` that are in ``needs``, by name."""
    results = [name for name in DoubleGradients._fields if name in needs and name in tensors]

    def gradient(*_: Any) -> Named:
        raise NotImplementedError(
            "deform_conv2d has no third derivatives, and no forward mode over reverse mode: for "
            "second derivatives take a GradientTape over a GradientTape"
        )

    return _differentiable(call, "double_backward", {**tensors, **cotangents}, results, gradient)


def jvp(call: Call, operands: Tensors, tangents: Tensors) -> Any:
    """The tangent of the output."""

    def gradient(named: Tensors, needs: frozenset[str], cotangents: Sequence[Any]) -> Named:
        operands = {name: named[name] for name in OPERANDS if name in named}
        of_tangents = frozenset(name.removeprefix(TANGENT) for name in needs - operands.keys())
        found = _as_tangents(backward(call, operands, cotangents[0], of_tangents).items())
        operands["grad_output"] = tf.convert_to_tensor(cotangents[0])
        directions = {name: named[name] for name in tangents}
        return found | double_backward(call, operands, directions, needs - {"grad_output"})

    return _differentiable(call, "jvp", {**operands, **tangents}, ["output"], gradient)["output"]


def _as_tangents(arrays: Iterable[tuple[str, Any]]) -> Named:
    return {f"{TANGENT}{name}": array for name, array in arrays if array is not None}


Gradient = Callable[[Tensors, frozenset[str], Sequence[Any]], Named]


def _differentiable(
    call: Call, operation: str, tensors: Tensors, results: Sequence[str], gradient: Gradient
) -> Named:
    """Results of an operation, by name, whose gradients TensorFlow finds.

    Args:
        call, operation, tensors, results: as for :meth:`Call.run`.
        gradient: from the tensors, the names of those whose gradients are needed, and the gradients
            of the results, makes gradients by name of the tensor.
    """
    needs = _needs(tensors)
    names = tuple(tensors)

    def named_results(found: Sequence[Any]) -> Named:
        return dict(zip(results, found, strict=True))

    if not needs or not results:
        return named_results(call.run(operation, tensors, results))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*values: Any) -> tuple[list[Any], Callable[..., list[Any]]]:
        named = dict(zip(names, values, strict=True))

        def gradients(*cotangents: Any) -> list[Any]:
            found = gradient(named, needs, cotangents)
            return [found.get(name) for name in names]

        return call.run(operation, named, results), gradients

    return named_results(run(*map(_in_current_graph, tensors.values())))


def _in_current_graph(tensor: Any) -> Any:
    """A tensor that the gradients of this function's gradients can reach.

    The gradient of a traced function is a function of its own, to which the tensor belongs only
    after an operation there has taken it.
    """
    return tensor if tf.executing_eagerly() else tf.identity(tensor)


def _needs(tensors: Tensors) -> frozenset[str]:
    """Names of the tensors whose gradients somebody may ask for.

    An eager call knows who watches. A function that is traced does not know the tapes around it.
    """
    if tf.executing_eagerly() and not has_tangents(tensors):
        return frozenset(recorded(tensors))
    return frozenset(tensors)
