"""The primitives of an operator: one for each function of its engine, and ``second_jvp``.

They are JAX primitives rather than ``custom_vjp`` functions, because a ``custom_vjp`` has no
forward mode. Each derivative is a primitive that is linear in some of its inputs. Its transpose is
one of these primitives too:

    jvp               J t                          <->  backward          J' g
    double_backward   (J s, J' h + H s)            <->  itself
    second_jvp        the second derivative along t and s, transposed into double_backward

``J`` is the derivative of the output with respect to the operands. ``H`` is the second derivative
of ``sum(g * output)``, which is symmetric. ``h`` is a tangent of ``g``, the ``grad_output``. So
forward mode, reverse mode, reverse over reverse, forward over reverse and reverse over forward all
call the engine's four functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cudeform.family import OPERATORS

from . import cuda
from .call_spec import (
    GRAD_OUTPUT,
    GRAD_OUTPUT_TANGENT,
    Arguments,
    CallSpec,
    select,
    with_role,
)
from .lowering import Target, execute, host_callback, is_exported
from .sharding import (
    devices_of,
    execute_sharded,
    is_partitioned,
    require_devices,
    vary_alike,
)

OPERATIONS = ("forward", "jvp", "backward", "double_backward", "second_jvp")
PLATFORMS = ("cpu", "cuda")


def call(
    like: CallSpec, operation: str, arguments: Arguments, outputs: Iterable[str]
) -> dict[str, Any]:
    """Call another operation with the sizes of the call ``like``; return its results by name."""
    spec = replace(like, operation=operation, inputs=tuple(arguments), outputs=tuple(outputs))
    return dict(zip(spec.outputs, bind(spec, arguments.values()), strict=True))


def bind(spec: CallSpec, arrays: Iterable[Any]) -> list[Any]:
    """Bind the primitive of a spec."""
    results: list[Any] = PRIMITIVES[spec.operator, spec.operation].bind(
        *vary_alike(arrays), spec=spec
    )
    return results


def _abstract(*avals: Any, spec: CallSpec) -> list[Any]:
    """Types of the results: a gradient has the type of its operand, the output that of the input.

    The shape of the output follows from the geometry.
    """
    primals = {
        argument.name: aval
        for argument, aval in zip(spec.inputs, avals, strict=True)
        if argument.role == "primal"
    }
    output = primals["input"].update(shape=spec.geometry.output_shape)
    return [primals.get(name, output).update(weak_type=False) for name in spec.outputs]


def _lower(context: Any, *arrays: Any, spec: CallSpec, platform: str) -> Any:
    if is_exported(context):
        spec = replace(spec, bridge="ffi")
    if spec.operation == "second_jvp":
        _refuse_two_tangents_of_the_offset(spec)
        staged = partial(_mixed_terms, spec)
    elif GRAD_OUTPUT_TANGENT in spec.inputs:
        staged = partial(_both_terms, spec)
    else:
        gpus = cuda.local_gpus(spec.operator, devices_of(context)) if platform == "cuda" else ()
        target = Target(platform, gpus)
        if is_partitioned(context):
            target = replace(target, callback=host_callback(context, spec, platform))
            staged = partial(execute_sharded, spec, target)
        else:
            staged = partial(execute, spec, target)
    return mlir.lower_fun(staged, multiple_results=True)(context, *arrays)


def _both_terms(spec: CallSpec, *arrays: Any) -> list[Any]:
    """``(J s, J' h + H s)``, from the engine's ``J' h`` and ``(J s, H s)``."""
    arguments = dict(zip(spec.inputs, arrays, strict=True))
    grad_output_tangent = arguments.pop(GRAD_OUTPUT_TANGENT)
    first = with_role("primal", select("primal", arguments)) | {GRAD_OUTPUT: grad_output_tangent}
    needs = [name for name in spec.outputs if name != "grad_output"]
    sums = call(spec, "backward", first, needs) if needs else {}
    seconds = [name for name in spec.outputs if name != "bias"]
    for name, second in call(spec, "double_backward", arguments, seconds).items():
        sums[name] = sums[name] + second if name in sums else second
    return [sums[name] for name in spec.outputs]


def _refuse_two_tangents_of_the_offset(spec: CallSpec) -> None:
    directions = [argument for argument in spec.inputs if argument.role != "primal"]
    if [argument.name for argument in directions].count("offset") == 2:
        raise NotImplementedError(
            f"{spec.operator} has no forward mode over forward mode with respect to "
            f"{spec.entry.public('offset')}; "
            "take one of the two derivatives in reverse mode, as jax.hessian does"
        )


def _mixed_terms(spec: CallSpec, *arrays: Any) -> list[Any]:
    """The second derivative along two directions, at most one of which includes the offset.

    The output is linear in every operand except the offset. So its derivative along the tangent of
    such an operand is the output with the operand replaced by the tangent.
    """
    arguments = dict(zip(spec.inputs, arrays, strict=True))
    operands, first, second = (
        select(role, arguments) for role in ("primal", "tangent", "second_tangent")
    )
    if "offset" in first:
        first, second = second, first
    total = None
    for name, tangent in first.items():
        others = {key: array for key, array in second.items() if key != name}
        if others:
            replaced = with_role("primal", operands | {name: tangent})
            term = call(spec, "jvp", replaced | with_role("tangent", others), ["output"])["output"]
            total = term if total is None else total + term
    if total is None:
        total = jnp.zeros(spec.geometry.output_shape, spec.dtype)
    return [total]


def _primitive(operator: str, operation: str) -> Primitive:
    suffix = "" if operation == "forward" else f"_{operation}"
    primitive = Primitive(f"{operator}{suffix}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(_abstract)

    @partial(jax.jit, static_argnames="spec")
    def compiled(*arrays: Any, spec: CallSpec) -> list[Any]:
        results: list[Any] = primitive.bind(*arrays, spec=spec)
        return results

    def run(*arrays: Any, spec: CallSpec) -> list[Any]:
        with jax.disable_jit(False):  # else the jit above would call the primitive once more
            results: list[Any] = compiled(*arrays, spec=spec)
            return results

    primitive.def_impl(run)
    for platform in PLATFORMS:
        mlir.register_lowering(primitive, partial(_lower, platform=platform), platform=platform)
    require_devices(primitive)
    return primitive


PRIMITIVES = {
    (operator, operation): _primitive(operator, operation)
    for operator in OPERATORS
    for operation in OPERATIONS
}
