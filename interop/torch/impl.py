"""The functions of an operator on plain tensors: check, allocate the results, compute.

Each function is written once and runs in one of two modes. ``Eager`` runs the engine. ``Fake`` is
for tensors without contents, such as those of a trace by torch.compile: it checks the sizes, which
may be symbolic, and allocates the results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import GRADIENTS, TANGENT, check_devices, check_dtypes
from cudeform.spec import AnyGeometry, AnySettings, Operator

from .formats import format_of
from .static_args import StaticArgs, unpack
from .views import Tensor, Tensors, dtype_name, run_engine

NO_TANGENTS = Tangents()


class Eager:
    """The mode for tensors with contents: it runs the engine, and checks equal calls only once."""

    @staticmethod
    def geometry(operator: Operator, arguments: Arguments, static: StaticArgs) -> AnyGeometry:
        """Check that all tensors fit together; return the geometry of the call."""
        return _cached_geometry(operator, arguments, static.settings)

    run = staticmethod(run_engine)


class Fake:
    """The mode for tensors without contents: it runs nothing.

    It caches nothing, because symbolic sizes have no hash.
    """

    @staticmethod
    def geometry(operator: Operator, arguments: Arguments, static: StaticArgs) -> AnyGeometry:
        """Check that all tensors fit together; return the geometry of the call."""
        return _checked_geometry(operator, arguments, static.settings)

    @staticmethod
    def run(*_: Any) -> None:
        """Compute nothing."""


Mode = type[Eager] | type[Fake]


def forward(operator: Operator, mode: Mode, *args: Any) -> Tensor:
    """Operands, static_args -> the output."""
    *given, static_args = args
    static = unpack(operator, static_args)
    static.check_assumed()
    operands = operator.fill(Operands, given)
    geometry = mode.geometry(operator, _arguments(operator, operands), static)
    output = _new_output(operator, operands, geometry)
    mode.run(operator.engine.forward, operands, geometry, static.options(), output)
    return output


def backward(operator: Operator, mode: Mode, grad_output: Tensor, *args: Any) -> Tensors:
    """grad_output, operands, needs, static_args -> gradients in the order of the operands.

    A gradient that is not needed is None.
    """
    *given, needs, static_args = args
    static = unpack(operator, static_args)
    operands = operator.fill(Operands, given)
    geometry = mode.geometry(operator, _arguments(operator, operands, grad_output), static)
    results = _results(operator, needs, given)
    grads = operator.fill(Gradients, results)
    mode.run(operator.engine.backward, operands, geometry, static.options(), grad_output, grads)
    return results


def jvp(operator: Operator, mode: Mode, *args: Any) -> Tensor:
    """Operands without bias, tangents of all operands, static_args -> the tangent of the output.

    A tangent that is None is zero.
    """
    *tensors, static_args = args
    static = unpack(operator, static_args)
    operands, tangents = _operands_and_tangents(operator, tensors)
    geometry = mode.geometry(operator, _arguments(operator, operands, None, tangents), static)
    output_tangent = _new_output(operator, operands, geometry)
    mode.run(operator.engine.jvp, operands, geometry, static.options(), tangents, output_tangent)
    return output_tangent


def double_backward(operator: Operator, mode: Mode, grad_output: Tensor, *args: Any) -> Tensors:
    """Gradients of ``sum(tangents * backward(...))`` by grad_output and operands without bias.

    The arguments are grad_output, those of :func:`jvp` and, in front of static_args, needs.
    """
    *tensors, needs, static_args = args
    static = unpack(operator, static_args)
    operands, tangents = _operands_and_tangents(operator, tensors)
    geometry = mode.geometry(
        operator, _arguments(operator, operands, grad_output, tangents), static
    )
    names = ("grad_output", *operator.differentiated)
    results = _results(operator, needs, (grad_output, *tensors[: len(operator.differentiated)]))
    wanted = DoubleGradients(**dict(zip(names, results, strict=True)))
    mode.run(
        operator.engine.double_backward,
        operands,
        geometry,
        static.options(),
        grad_output,
        tangents,
        wanted,
    )
    return results


def _operands_and_tangents(operator: Operator, tensors: Sequence[Any]) -> tuple[Operands, Tangents]:
    names = operator.differentiated
    operands = Operands(**dict(zip(names, tensors, strict=False)))
    return operands, operator.fill(Tangents, tensors[len(names) :])


def for_dispatcher(impl: Callable[..., Any], operator: Operator, mode: Mode, *args: Any) -> Any:
    """Call ``impl`` and replace None by an empty tensor: an operator cannot return None."""
    results = impl(operator, mode, *args)
    if not isinstance(results, tuple):
        return results
    return tuple(args[0].new_empty(0) if tensor is None else tensor for tensor in results)


def _new_output(operator: Operator, operands: Operands, geometry: AnyGeometry) -> Tensor:
    """Allocate the output, in the memory format of a convolution's operands."""
    input, shape = operands.input, geometry.output_shape
    memory_format = torch.contiguous_format
    if operator.parameters:
        memory_format = format_of(input, operands.weight)
    if memory_format is torch.contiguous_format:
        return input.new_empty(*shape)  # keeps the class of the input
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format)


def _results(operator: Operator, needs: Sequence[bool], tensors: Sequence[Any]) -> Tensors:
    """Allocate the results; None if a result is not needed or its argument is absent.

    Those of a convolution have the memory formats of its arguments, others are contiguous.
    """
    return tuple(
        torch.empty_like(
            tensor,
            memory_format=format_of(tensor) if operator.parameters else torch.contiguous_format,
        )
        if need and tensor is not None
        else None
        for need, tensor in zip(needs, tensors, strict=True)
    )


class Argument(NamedTuple):
    """The properties of a tensor that are checked."""

    shape: Any
    dtype: Any
    device: Any


# One item for each of NAMES: an Argument, or a plain tuple, which is faster; None if absent.
Arguments = tuple[tuple[Any, Any, Any] | None, ...]
NAMES = (*GRADIENTS, "grad_output", *(f"{TANGENT}{name}" for name in GRADIENTS))


def _arguments(
    operator: Operator,
    operands: Tensors,
    grad_output: Tensor | None = None,
    tangents: Tangents = NO_TANGENTS,
) -> Arguments:
    tensors = (*operands, grad_output, *tangents)
    if in_forward_mode() and not _handled.active:
        _refuse_tangents(operator, tensors)
    return tuple([None if t is None else (t.shape, t.dtype, t.device) for t in tensors])


class _Handled(threading.local):
    """Whether the caller, an ``autograd.Function``, handles the tangents."""

    active = False


_handled = _Handled()


@contextmanager
def tangents_handled() -> Iterator[None]:
    """Accept tensors with tangents, for calls of an ``autograd.Function`` with a rule for them."""
    before, _handled.active = _handled.active, True
    try:
        yield
    finally:
        _handled.active = before


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def _refuse_tangents(operator: Operator, tensors: Tensors) -> None:
    """Reject tensors with tangents: an operator cannot see them, and torch drops them silently."""
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"forward-mode differentiation of cudeform works through cudeform.{operator.name}, "
                "neither through the operators in torch.ops.cudeform nor under torch.compile"
            )


def _checked_geometry(
    operator: Operator, arguments: Arguments, settings: AnySettings
) -> AnyGeometry:
    present = {n: Argument(*a) for n, a in zip(NAMES, arguments, strict=True) if a is not None}
    named = operator.named(present)
    dtypes = {name: dtype_name(argument.dtype) for name, argument in named.items()}
    check_dtypes(dtypes, operator.coordinates)
    check_devices({name: argument.device for name, argument in named.items()})
    shapes = {name: tuple(argument.shape) for name, argument in present.items()}
    operands = Operands(*map(shapes.get, GRADIENTS))
    geometry = operator.geometry(operands, settings, traced=True)
    if "grad_output" in shapes:
        geometry.check_grad_output(shapes["grad_output"])
    _check_tangents(operator, geometry, shapes)
    return geometry


_cached_geometry = lru_cache(maxsize=256)(_checked_geometry)


def _check_tangents(operator: Operator, geometry: AnyGeometry, shapes: dict[str, Any]) -> None:
    for operand in operator.operands:
        expected = getattr(geometry, f"{operand.name}_shape")
        got = shapes.get(f"{TANGENT}{operand.name}", expected)
        if got != expected:
            name = operand.public
            raise ValueError(
                f"tangent of {name} must have the shape of {name}, {expected}, got {got}"
            )
