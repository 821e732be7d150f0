"""Forward and reverse mode of the primitives; ``primitives.py`` lists their transposes.

The rules take and return mappings of arrays. An array that is not in a mapping is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.interpreters import ad

from .call_spec import (
    GRAD_OUTPUT,
    GRAD_OUTPUT_TANGENT,
    OPERANDS,
    Argument,
    Arguments,
    CallSpec,
    Role,
    select,
    with_role,
)
from .linearity import linear_arguments
from .primitives import PRIMITIVES, bind, call

Named = Mapping[str, Any]


# ---- products with derivatives, from which the rules are built -----------------------------------


def _jvp(spec: CallSpec, operands: Named, tangents: Named) -> Any:
    """``J t``; None for zero."""
    if not tangents:
        return None
    arguments = with_role("primal", operands) | with_role("tangent", tangents)
    return call(spec, "jvp", arguments, ["output"])["output"]


def _backward(spec: CallSpec, operands: Named, grad_output: Any, needs: Iterable[str]) -> Named:
    """``J' g``."""
    needs = tuple(needs)
    if grad_output is None or not needs:
        return {}
    arguments = with_role("primal", operands) | {GRAD_OUTPUT: grad_output}
    return call(spec, "backward", arguments, needs)


def _double_backward(
    spec: CallSpec,
    operands: Named,
    grad_output: Any,
    grad_output_tangent: Any,
    tangents: Named,
    needs: Iterable[str],
) -> Named:
    """``(J s, J' h + H s)`` for a tangent ``h`` of grad_output and tangents ``s`` of the operands.

    The second derivatives with respect to the bias are zero, so its result is ``J' h`` alone.
    """
    if not tangents:
        first = [name for name in needs if name != "grad_output"]
        return _backward(spec, operands, grad_output_tangent, first)
    arguments = with_role("primal", operands) | {GRAD_OUTPUT: grad_output}
    if grad_output_tangent is None:
        needs = [name for name in needs if name != "bias"]
    else:
        arguments[GRAD_OUTPUT_TANGENT] = grad_output_tangent
    needs = tuple(needs)
    if not needs:
        return {}
    return call(spec, "double_backward", arguments | with_role("tangent", tangents), needs)


def _second_jvp(spec: CallSpec, operands: Named, tangents: Named, second_tangents: Named) -> Any:
    """The second derivative of the output along two directions; None for zero."""
    tangents, second_tangents = map(_without_bias, (tangents, second_tangents))
    if not tangents or not second_tangents:
        return None
    arguments = (
        with_role("primal", operands)
        | with_role("tangent", tangents)
        | with_role("second_tangent", second_tangents)
    )
    return call(spec, "second_jvp", arguments, ["output"])["output"]


def _without_bias(arrays: Named) -> Named:
    return {name: array for name, array in arrays.items() if name != "bias"}


def _sum(one: Any, two: Any) -> Any:
    return two if one is None else one if two is None else one + two


# ---- forward mode: (spec, arguments of the primitive, their tangents) -> tangents of the results -


def _forward_jvp(spec: CallSpec, arguments: Arguments, tangents: Arguments) -> Named:
    return {"output": _jvp(spec, select("primal", arguments), select("primal", tangents))}


def _jvp_jvp(spec: CallSpec, arguments: Arguments, tangents: Arguments) -> Named:
    operands = select("primal", arguments)
    one = _jvp(spec, operands, select("tangent", tangents))
    two = _second_jvp(spec, operands, select("tangent", arguments), select("primal", tangents))
    return {"output": _sum(one, two)}


def _backward_jvp(spec: CallSpec, arguments: Arguments, tangents: Arguments) -> Named:
    return _double_backward(
        spec,
        select("primal", arguments),
        arguments[GRAD_OUTPUT],
        tangents.get(GRAD_OUTPUT),
        _without_bias(select("primal", tangents)),
        spec.outputs,
    )


def _double_backward_jvp(spec: CallSpec, arguments: Arguments, tangents: Arguments) -> Named:
    _refuse_third_derivatives(spec, (key for key in tangents if key != GRAD_OUTPUT))
    operands = select("primal", arguments)
    one = _double_backward(
        spec,
        operands,
        arguments[GRAD_OUTPUT],
        tangents.get(GRAD_OUTPUT_TANGENT),
        select("tangent", tangents),
        spec.outputs,
    )
    if GRAD_OUTPUT not in tangents:
        return one
    along = _without_bias(select("tangent", arguments))
    needs = [name for name in spec.outputs if name != "grad_output"]
    two = _double_backward(spec, operands, tangents[GRAD_OUTPUT], None, along, needs)
    return {name: _sum(one.get(name), two.get(name)) for name in one.keys() | two.keys()}


def _second_jvp_jvp(spec: CallSpec, arguments: Arguments, tangents: Arguments) -> Named:
    _refuse_third_derivatives(spec, tangents)
    operands = select("primal", arguments)
    first, second = select("tangent", arguments), select("second_tangent", arguments)
    one = _second_jvp(spec, operands, select("tangent", tangents), second)
    two = _second_jvp(spec, operands, first, select("second_tangent", tangents))
    return {"output": _sum(one, two)}


def _refuse_third_derivatives(spec: CallSpec, differentiated: Iterable[Argument]) -> None:
    if any(argument.role == "primal" for argument in differentiated):
        raise NotImplementedError(f"{spec.operator} has no third derivatives")


JVP_RULES = {
    "forward": _forward_jvp,
    "jvp": _jvp_jvp,
    "backward": _backward_jvp,
    "double_backward": _double_backward_jvp,
    "second_jvp": _second_jvp_jvp,
}


# ---- reverse mode: (spec, arguments, linear ones, cotangents) -> cotangents of the linear ones ---
#
# The cotangent of a linear argument does not depend on that argument. So linear operands are passed
# as zeros, and linear tangents and a linear ``grad_output`` are not passed.


def _forward_transpose(
    spec: CallSpec, arguments: Arguments, linear: Sequence[Argument], cotangents: Named
) -> Arguments:
    operands, needs = select("primal", arguments), _names("primal", linear)
    return with_role("primal", _backward(spec, operands, cotangents["output"], needs))


def _jvp_transpose(
    spec: CallSpec, arguments: Arguments, linear: Sequence[Argument], cotangents: Named
) -> Arguments:
    operands, cotangent = select("primal", arguments), cotangents["output"]
    found = _backward(spec, operands, cotangent, _names("tangent", linear))
    tangents = _without_bias(select("tangent", arguments))
    needs = _names("primal", linear)
    seconds = _double_backward(spec, operands, cotangent, None, tangents, needs) if needs else {}
    return with_role("tangent", found) | with_role("primal", seconds)


def _backward_transpose(
    spec: CallSpec, arguments: Arguments, linear: Sequence[Argument], cotangents: Named
) -> Arguments:
    operands = select("primal", arguments)
    if GRAD_OUTPUT in linear:  # every term has grad_output, so no operand is linear
        return {GRAD_OUTPUT: _jvp(spec, operands, cotangents)}
    tangents, needs = _without_bias(cotangents), _names("primal", linear)
    grad_output = arguments[GRAD_OUTPUT]
    return with_role("primal", _double_backward(spec, operands, grad_output, None, tangents, needs))


def _double_backward_transpose(
    spec: CallSpec, arguments: Arguments, linear: Sequence[Argument], cotangents: Named
) -> Arguments:
    _refuse_third_derivatives(spec, [argument for argument in linear if argument != GRAD_OUTPUT])
    operands = select("primal", arguments)
    directions = {name: array for name, array in cotangents.items() if name != "grad_output"}
    found: dict[Argument, Any] = {}
    if GRAD_OUTPUT in linear:
        found[GRAD_OUTPUT] = _second_jvp(spec, operands, select("tangent", arguments), directions)
    if needs := _names("tangent", linear):
        grad_output = arguments.get(GRAD_OUTPUT)
        if grad_output is None:
            grad_output = jnp.zeros(spec.geometry.output_shape, spec.dtype)
        along = cotangents.get("grad_output")
        found |= with_role(
            "tangent", _double_backward(spec, operands, grad_output, along, directions, needs)
        )
    return found


def _second_jvp_transpose(
    spec: CallSpec, arguments: Arguments, linear: Sequence[Argument], cotangents: Named
) -> Arguments:
    _refuse_third_derivatives(spec, linear)
    operands, cotangent = select("primal", arguments), cotangents["output"]
    found: dict[Argument, Any] = {}
    roles: tuple[Role, Role] = ("tangent", "second_tangent")
    for role, other_role in (roles, roles[::-1]):
        if needs := _names(role, linear):
            tangents = select(other_role, arguments)
            grads = _double_backward(spec, operands, cotangent, None, tangents, needs)
            found |= with_role(role, grads)
    return found


def _names(role: Role, arguments: Iterable[Argument]) -> list[str]:
    return [argument.name for argument in arguments if argument.role == role]


TRANSPOSE_RULES = {
    "forward": _forward_transpose,
    "jvp": _jvp_transpose,
    "backward": _backward_transpose,
    "double_backward": _double_backward_transpose,
    "second_jvp": _second_jvp_transpose,
}


# ---- JAX's side of the rules ---------------------------------------------------------------------


def _jvp_for_jax(rule: Callable[..., Named]) -> Callable[..., Any]:
    def jvp(primals: Any, tangents: Any, *, spec: CallSpec) -> Any:
        results = bind(spec, primals)
        given = zip(spec.inputs, tangents, strict=True)
        non_zero = {key: tangent for key, tangent in given if not isinstance(tangent, ad.Zero)}
        arguments = dict(zip(spec.inputs, primals, strict=True))
        found = rule(spec, arguments, non_zero)
        return results, [
            jnp.zeros_like(result) if found.get(name) is None else found[name]
            for name, result in zip(spec.outputs, results, strict=True)
        ]

    return jvp


def _transpose_for_jax(rule: Callable[..., Arguments]) -> Callable[..., Any]:
    def transpose(cotangents: Any, *arrays: Any, spec: CallSpec) -> Any:
        given = zip(spec.outputs, cotangents, strict=True)
        non_zero = {name: array for name, array in given if not isinstance(array, ad.Zero)}
        if not non_zero:
            return [None] * len(arrays)
        arguments = dict(zip(spec.inputs, arrays, strict=True))
        unknown = [key for key, array in arguments.items() if ad.is_undefined_primal(array)]
        linear = linear_arguments(spec, unknown, non_zero)
        if not linear:
            return [None] * len(arrays)
        filled = {
            key: _zeros(array) if key in unknown else array
            for key, array in arguments.items()
            if key not in unknown or (key.role == "primal" and key.name in OPERANDS)
        }
        found = rule(spec, filled, linear, non_zero)
        return [found.get(argument) for argument in spec.inputs]

    return transpose


def _zeros(unknown: Any) -> Any:
    return ad.instantiate_zeros(ad.Zero(unknown.aval))


def register() -> None:
    """Register the rules with JAX."""
    for (_, operation), primitive in PRIMITIVES.items():
        ad.primitive_jvps[primitive] = _jvp_for_jax(JVP_RULES[operation])
        ad.primitive_transposes[primitive] = _transpose_for_jax(TRANSPOSE_RULES[operation])
