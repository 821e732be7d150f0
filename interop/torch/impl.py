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
from cudeform.checks import GRADIENTS, check_devices, check_dtypes
from cudeform.family import AnyGeometry, AnySettings, Operator

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


def forward(
    operator: Operator,
    mode: Mode,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    static_args: Sequence[int],
) -> Tensor:
    """The output."""
    static = unpack(operator, static_args)
    static.check_assumed()
    operands = input, offset, weight, bias, mask
    geometry = mode.geometry(operator, _arguments(operator, operands), static)
    memory_format = format_of(input, weight)
    output = torch.empty(
        geometry.output_shape, dtype=input.dtype, device=input.device, memory_format=memory_format
    )
    mode.run(operator.engine.forward, operands, geometry, static.options(), output)
    return output


def backward(
    operator: Operator,
    mode: Mode,
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: Sequence[bool],
    static_args: Sequence[int],
) -> Tensors:
    """Gradients in the order of ``Gradients``; None for one that is not needed."""
    static = unpack(operator, static_args)
    operands = input, offset, weight, bias, mask
    geometry = mode.geometry(operator, _arguments(operator, operands, grad_output), static)
    grads = Gradients(*_results(needs, operands))
    mode.run(operator.engine.backward, operands, geometry, static.options(), grad_output, grads)
    return grads


def jvp(
    operator: Operator,
    mode: Mode,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    input_tangent: Tensor | None,
    offset_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    mask_tangent: Tensor | None,
    static_args: Sequence[int],
) -> Tensor:
    """The tangent of the output; a tangent that is None is zero."""
    static = unpack(operator, static_args)
    operands = input, offset, weight, None, mask
    tangents = Tangents(input_tangent, offset_tangent, weight_tangent, bias_tangent, mask_tangent)
    geometry = mode.geometry(operator, _arguments(operator, operands, None, tangents), static)
    memory_format = format_of(input, weight)
    output_tangent = torch.empty(
        geometry.output_shape, dtype=input.dtype, device=input.device, memory_format=memory_format
    )
    mode.run(operator.engine.jvp, operands, geometry, static.options(), tangents, output_tangent)
    return output_tangent


def double_backward(
    operator: Operator,
    mode: Mode,
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    input_tangent: Tensor | None,
    offset_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    mask_tangent: Tensor | None,
    needs: Sequence[bool],
    static_args: Sequence[int],
) -> Tensors:
    """Gradients of ``sum(tangents * backward(...))`` in the order of ``DoubleGradients``."""
    static = unpack(operator, static_args)
    operands = input, offset, weight, None, mask
    tangents = Tangents(input_tangent, offset_tangent, weight_tangent, bias_tangent, mask_tangent)
    geometry = mode.geometry(
        operator, _arguments(operator, operands, grad_output, tangents), static
    )
    results = DoubleGradients(*_results(needs, (grad_output, input, offset, weight, mask)))
    directions = grad_output, tangents
    mode.run(
        operator.engine.double_backward, operands, geometry, static.options(), *directions, results
    )
    return results


def for_dispatcher(impl: Callable[..., Any], operator: Operator, mode: Mode, *args: Any) -> Any:
    """Call ``impl`` and replace None by an empty tensor: an operator cannot return None."""
    results = impl(operator, mode, *args)
    if not isinstance(results, tuple):
        return results
    return tuple(args[0].new_empty(0) if tensor is None else tensor for tensor in results)


def _results(needs: Sequence[bool], tensors: Tensors) -> Tensors:
    """Allocate the results; None if a result is not needed or its argument is absent."""
    return tuple(
        torch.empty_like(tensor, memory_format=format_of(tensor))
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
NAMES = (*GRADIENTS, "grad_output", *(f"tangent of {name}" for name in GRADIENTS))


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
    check_dtypes({name: dtype_name(argument.dtype) for name, argument in present.items()})
    check_devices({name: argument.device for name, argument in present.items()})
    shapes = {name: tuple(argument.shape) for name, argument in present.items()}
    operands = Operands(*map(shapes.get, GRADIENTS))
    geometry = operator.geometry(operands, settings, traced=True)
    if "grad_output" in shapes:
        geometry.check_grad_output(shapes["grad_output"])
    _check_tangents(geometry, shapes)
    return geometry


_cached_geometry = lru_cache(maxsize=256)(_checked_geometry)


def _check_tangents(g: AnyGeometry, shapes: dict[str, Any]) -> None:
    expected = (g.input_shape, g.offset_shape, g.weight_shape, g.bias_shape, g.mask_shape)
    for name, shape in zip(GRADIENTS, expected, strict=True):
        got = shapes.get(f"tangent of {name}", shape)
        if got != shape:
            raise ValueError(f"tangent of {name} must have the shape of {name}, {shape}, got {got}")
