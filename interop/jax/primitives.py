"""The primitives: one for each function of the engine, and one that only reverse mode can use.

They are primitives of JAX's own kind and not ``custom_vjp`` functions, because a ``custom_vjp``
has no forward mode. Each derivative is a primitive that is linear in some of its inputs, and its
transpose is a primitive again:

    jvp               J t                          <->  backward          J' g
    double_backward   (J s, J' h + H s)            <->  itself
    second_jvp        the second derivative along t and s, transposed into double_backward

``J`` is the derivative of the output, ``H`` the second derivative of ``sum(g * output)`` by the
operands, which is symmetric. So forward mode, reverse mode, reverse over reverse, forward over
reverse and reverse over forward all end in the engine's four functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cudeform.checks import GRADIENTS

from .call_spec import TANGENT, Task
from .lowering import execute, host
from .sharding import execute_sharded, is_partitioned, needs_devices, vary_alike

OPERATIONS = ("forward", "jvp", "backward", "double_backward", "second_jvp")
PLATFORMS = ("cpu", "cuda")

Arrays = Mapping[str, Any]


def call(
    like: Task, operation: str, arrays: Arrays, outputs: Iterable[str] = ("output",)
) -> dict[str, Any]:
    """Bind a primitive; arrays go in and come out by name."""
    task = replace(like, operation=operation, inputs=tuple(arrays), outputs=tuple(outputs))
    return dict(zip(task.outputs, bind(task, arrays.values()), strict=True))


def bind(task: Task, arrays: Iterable[Any]) -> list[Any]:
    """Bind the primitive of a task."""
    results: list[Any] = PRIMITIVES[task.operation].bind(*vary_alike(arrays), task=task)
    return results


def _abstract(*avals: Any, task: Task) -> list[Any]:
    """Results are like the operand whose gradients they are, or like the input but for sizes."""
    named = dict(zip(task.inputs, avals, strict=True))
    output = named["input"].update(shape=task.geometry.output_shape)
    return [named.get(name, output).update(weak_type=False) for name in task.outputs]


def _lower(context: Any, *arrays: Any, task: Task, platform: str) -> Any:
    if task.operation == "second_jvp":
        raise NotImplementedError(
            "deform_conv2d has no forward mode over forward mode; take one of the two derivatives "
            "in reverse mode: jax.hessian and jax.jacfwd(jax.grad(f)) do"
        )
    if TANGENT + "grad_output" in task.inputs:
        staged = partial(_both_terms, task)
    elif is_partitioned(context):
        staged = partial(execute_sharded, task, platform, host(context, task, platform))
    else:
        staged = partial(execute, task, platform)
    return mlir.lower_fun(staged, multiple_results=True)(context, *arrays)


def _both_terms(task: Task, *arrays: Any) -> list[Any]:
    """``(J s, J' h + H s)``; the engine has ``J' h`` and ``(J s, H s)``."""
    named = dict(zip(task.inputs, arrays, strict=True))
    moved = named.pop(TANGENT + "grad_output")
    operands = {name: array for name, array in named.items() if name in GRADIENTS}
    wanted = [name for name in task.outputs if name != "grad_output"]
    sums = call(task, "backward", operands | {"grad_output": moved}, wanted) if wanted else {}
    seconds = [name for name in task.outputs if name != "bias"]
    for name, second in call(task, "double_backward", named, seconds).items():
        sums[name] = sums[name] + second if name in sums else second
    return [sums[name] for name in task.outputs]


def _primitive(operation: str) -> Primitive:
    suffix = "" if operation == "forward" else f"_{operation}"
    primitive = Primitive(f"deform_conv2d{suffix}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(_abstract)

    @partial(jax.jit, static_argnames="task")
    def compiled(*arrays: Any, task: Task) -> list[Any]:
        results: list[Any] = primitive.bind(*arrays, task=task)
        return results

    primitive.def_impl(compiled)
    for platform in PLATFORMS:
        mlir.register_lowering(primitive, partial(_lower, platform=platform), platform=platform)
    needs_devices(primitive)
    return primitive


PRIMITIVES = {operation: _primitive(operation) for operation in OPERATIONS}
