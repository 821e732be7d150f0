"""Gradients for TensorFlow: the gradient of each operation is another operation.

The gradient of the forward is the backward. The gradient of the backward and of the jvp is the
double backward, which has no gradient. An eager call whose tensors are not watched runs the
operation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from cudeform.arrays import DoubleGradients

from .call import TANGENT, Call, Tensors
from .private import has_tangents, recorded

Named = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A request of TensorFlow for the gradients of an operation.

    Attributes:
        tensors: the arguments of the operation.
        needs: names of the tensors whose gradients are needed.
        cotangents: the gradients of the results.
        followed: whether a ForwardAccumulator differentiates the gradients with respect to the
            cotangents. It then uses its own tape, which :func:`recorded` does not see.
    """

    tensors: Named
    needs: frozenset[str]
    cotangents: Sequence[Any]
    followed: bool


def forward(call: Call, operands: Tensors) -> Any:
    """The deformable convolution."""

    def gradient(asked: Request) -> Named:
        (grad_output,) = asked.cotangents
        return backward(call, asked.tensors, grad_output, asked.needs, asked.followed)

    return _differentiable(call, "forward", operands, ["output"], gradient)["output"]


def backward(
    call: Call, operands: Tensors, grad_output: Any, needs: frozenset[str], followed: bool = False
) -> Named:
    """The gradients of the operands in ``needs``, by name."""
    tensors = {**operands, "grad_output": tf.convert_to_tensor(grad_output)}
    results = [name for name in operands if name in needs]

    def gradient(asked: Request) -> Named:
        cotangents = _as_tangents(zip(results, asked.cotangents, strict=True))
        return double_backward(call, asked.tensors, cotangents, asked.needs, asked.followed)

    follows = ["grad_output"] if followed else []
    return _differentiable(call, "backward", tensors, results, gradient, follows)


def double_backward(
    call: Call,
    tensors: Tensors,
    cotangents: Tensors,
    needs: frozenset[str],
    followed: bool = False,
) -> Named:
    """The gradients of ``sum(cotangents * backward(...))`` named in ``needs``, by name."""
    results = [name for name in DoubleGradients._fields if name in needs and name in tensors]
    tensors = {**tensors, **cotangents}

    def gradient(_: Request) -> Named:
        raise NotImplementedError(
            f"{call.operator.name} has no third derivatives, and no forward mode over reverse "
            "mode: for second derivatives take a GradientTape over a GradientTape"
        )

    follows = list(tensors) if followed else []
    return _differentiable(call, "double_backward", tensors, results, gradient, follows)


def jvp(call: Call, operands: Tensors, tangents: Tensors) -> Any:
    """The tangent of the output."""

    def gradient(asked: Request) -> Named:
        primals = {name: asked.tensors[name] for name in operands}
        directions = {name: asked.tensors[name] for name in tangents}
        (cotangent,) = map(tf.convert_to_tensor, asked.cotangents)
        of_tangents = frozenset(n.removeprefix(TANGENT) for n in asked.needs if n in tangents)
        found = backward(call, primals, cotangent, of_tangents, asked.followed)
        primals["grad_output"] = cotangent
        of_primals = asked.needs & operands.keys()
        second = double_backward(call, primals, directions, of_primals, asked.followed)
        return _as_tangents(found.items()) | second

    return _differentiable(call, "jvp", {**operands, **tangents}, ["output"], gradient)["output"]


def _as_tangents(arrays: Iterable[tuple[str, Any]]) -> Named:
    return {f"{TANGENT}{name}": array for name, array in arrays if array is not None}


def _differentiable(
    call: Call,
    operation: str,
    tensors: Tensors,
    results: Sequence[str],
    gradient: Callable[[Request], Named],
    follows: Sequence[str] = (),
) -> Named:
    """Results of an operation, by name, with a gradient function for TensorFlow.

    Args:
        call, operation, tensors, results: as for :meth:`Call.run`.
        gradient: computes the requested gradients, by name of the tensor.
        follows: names of tensors watched by a tape that :func:`recorded` does not see.
    """
    # A traced function cannot see the tapes around it; an eager call can.
    eager = tf.executing_eagerly()
    followed = eager and has_tangents(tensors)
    needs = frozenset(tensors)
    if eager and not followed:
        needs = frozenset([*recorded(tensors), *follows])

    if not needs or not results:
        return dict(zip(results, call.run(operation, tensors, results), strict=True))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*values: Any) -> tuple[list[Any], Callable[..., list[Any]]]:
        named = dict(zip(tensors, values, strict=True))

        def gradients(*cotangents: Any) -> list[Any]:
            found = gradient(Request(named, needs, cotangents, followed))
            return [found.get(name) for name in named]

        return call.run(operation, named, results), gradients

    # The gradient of a traced function is another traced function. Its own gradient reaches a
    # tensor only if an operation in it takes the tensor.
    values = tensors.values() if eager else map(tf.identity, tensors.values())
    return dict(zip(results, run(*values), strict=True))
