"""Forward and reverse mode of the primitives; ``primitives.py`` says what is whose transpose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jax.interpreters import ad

from cudeform.checks import GRADIENTS

from .call_spec import OTHER, TANGENT, Task
from .primitives import PRIMITIVES, Arrays, bind, call

MOVED_GRADIENT = TANGENT + "grad_output"

Named = dict[str, Any]


def _jvp(task: Task, operands: Arrays, tangents: Arrays) -> Any:
    """``J t``; None for zero."""
    if not tangents:
        return None
    return call(task, "jvp", {**operands, **_prefixed(TANGENT, tangents)})["output"]


def _backward(task: Task, operands: Arrays, grad_output: Any, needs: Iterable[str]) -> Named:
    """``J' g``."""
    needs = tuple(needs)
    if grad_output is None or not needs:
        return {}
    return call(task, "backward", {**operands, "grad_output": grad_output}, needs)


def _double(
    task: Task,
    operands: Arrays,
    grad_output: Any,
    moved: Any,
    tangents: Arrays,
    needs: Iterable[str],
) -> Named:
    """``(J s, J' h + H s)`` for a gradient ``h`` and tangents ``s``; what is zero is left out.

    The bias has no second derivatives: its part is ``J' h`` alone.
    """
    if not tangents:
        return _backward(task, operands, moved, (n for n in needs if n != "grad_output"))
    arrays = {**operands, "grad_output": grad_output}
    if moved is None:
        needs = [name for name in needs if name != "bias"]
    else:
        arrays[MOVED_GRADIENT] = moved
    needs = tuple(needs)
    if not needs:
        return {}
    return call(task, "double_backward", {**arrays, **_prefixed(TANGENT, tangents)}, needs)


def _second(task: Task, operands: Arrays, tangents: Arrays, others: Arrays) -> Any:
    """The second derivative of the output along two directions; None for zero."""
    others = {name: other for name, other in others.items() if name != "bias"}
    tangents = {name: tangent for name, tangent in tangents.items() if name != "bias"}
    if not tangents or not others:
        return None
    directions = _prefixed(TANGENT, tangents) | _prefixed(OTHER, others)
    return call(task, "second_jvp", {**operands, **directions})["output"]


def _forward_jvp(task: Task, values: Named, moves: Named) -> Named:
    return {"output": _jvp(task, _operands(values), moves)}


def _jvp_jvp(task: Task, values: Named, moves: Named) -> Named:
    operands, tangents = _operands(values), _directions(TANGENT, values)
    first = _jvp(task, operands, _directions(TANGENT, moves))
    return {"output": _sum(first, _second(task, operands, tangents, _operands(moves)))}


def _backward_jvp(task: Task, values: Named, moves: Named) -> Named:
    moved, tangents = moves.get("grad_output"), _operands(moves)
    tangents.pop("bias", None)
    operands = _operands(values)
    return _double(task, operands, values["grad_output"], moved, tangents, task.outputs)


def _double_jvp(task: Task, values: Named, moves: Named) -> Named:
    _refuse_third(moves)
    moved, tangents = moves.get(MOVED_GRADIENT), _directions(TANGENT, moves)
    operands = _operands(values)
    return _double(task, operands, values["grad_output"], moved, tangents, task.outputs)


def _second_jvp(task: Task, values: Named, moves: Named) -> Named:
    _refuse_third(moves)
    operands = _operands(values)
    one = _second(task, operands, _directions(TANGENT, moves), _directions(OTHER, values))
    two = _second(task, operands, _directions(TANGENT, values), _directions(OTHER, moves))
    return {"output": _sum(one, two)}


def _refuse_third(moves: Named) -> None:
    if any(name in GRADIENTS or name == "grad_output" for name in moves):
        raise NotImplementedError("deform_conv2d has no third derivatives")


def _jvp_transpose(task: Task, known: Named, unknown: list[str], cotangents: Named) -> Named:
    needs = [name.removeprefix(TANGENT) for name in unknown]
    grads = _backward(task, _operands(known), cotangents["output"], needs)
    return _prefixed(TANGENT, grads)


def _backward_transpose(task: Task, known: Named, unknown: list[str], cotangents: Named) -> Named:
    return {"grad_output": _jvp(task, _operands(known), cotangents)}


def _double_transpose(task: Task, known: Named, unknown: list[str], cotangents: Named) -> Named:
    moved = cotangents.pop("grad_output", None)
    needs = [name.removeprefix(TANGENT) for name in unknown]
    operands = _operands(known)
    grads = _double(task, operands, known["grad_output"], moved, cotangents, needs)
    return _prefixed(TANGENT, grads)


def _second_transpose(task: Task, known: Named, unknown: list[str], cotangents: Named) -> Named:
    prefix, other = (TANGENT, OTHER) if unknown[0].startswith(TANGENT) else (OTHER, TANGENT)
    needs = [name.removeprefix(prefix) for name in unknown]
    along = _directions(other, known)
    operands, grad_output = _operands(known), cotangents["output"]
    return _prefixed(prefix, _double(task, operands, grad_output, None, along, needs))


def _operands(named: Arrays) -> Named:
    return {name: named[name] for name in GRADIENTS if name in named}


def _directions(prefix: str, named: Arrays) -> Named:
    return {name: named[prefix + name] for name in GRADIENTS if prefix + name in named}


def _prefixed(prefix: str, named: Arrays) -> Named:
    return {prefix + name: array for name, array in named.items()}


def _sum(one: Any, two: Any) -> Any:
    return two if one is None else one if two is None else one + two


def _register_jvp(operation: str, rule: Any) -> None:
    def jvp(values: Any, moves: Any, *, task: Task) -> Any:
        results = bind(task, values)
        given = zip(task.inputs, moves, strict=True)
        moving = {name: move for name, move in given if not isinstance(move, ad.Zero)}
        named = dict(zip(task.inputs, values, strict=True))
        tangents = rule(task, named, moving)
        return results, [
            jnp.zeros_like(result) if tangents.get(name) is None else tangents[name]
            for name, result in zip(task.outputs, results, strict=True)
        ]

    ad.primitive_jvps[PRIMITIVES[operation]] = jvp


def _register_transpose(operation: str, rule: Any) -> None:
    def transpose(cotangents: Any, *values: Any, task: Task) -> Any:
        given = zip(task.outputs, cotangents, strict=True)
        named = {name: array for name, array in given if not isinstance(array, ad.Zero)}
        if not named:
            return [None] * len(values)
        inputs = dict(zip(task.inputs, values, strict=True))
        unknown = [name for name, value in inputs.items() if ad.is_undefined_primal(value)]
        known = {name: value for name, value in inputs.items() if name not in unknown}
        results = rule(task, known, unknown, named)
        return [results.get(name) for name in task.inputs]

    ad.primitive_transposes[PRIMITIVES[operation]] = transpose


def register() -> None:
    """Tell JAX the rules."""
    jvps = (_forward_jvp, _jvp_jvp, _backward_jvp, _double_jvp, _second_jvp)
    for operation, jvp in zip(PRIMITIVES, jvps, strict=True):
        _register_jvp(operation, jvp)
    _register_transpose("jvp", _jvp_transpose)
    _register_transpose("backward", _backward_transpose)
    _register_transpose("double_backward", _double_transpose)
    _register_transpose("second_jvp", _second_transpose)
