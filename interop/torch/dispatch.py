"""The operators of ``torch.ops.cudeform``: schemas, implementations, and how they are called.

An operator of the table has four functions, and each is an operator for torch. With
``L = sum(grad_output * output)`` they give all derivatives:

* ``forward``: the output; ``backward``: the gradient of L;
* ``jvp``: the tangent of the output;
* ``double_backward``: the gradient of ``sum(tangents * gradient of L)``. Second derivatives
  commute, so with the same tangents it is the tangent of the gradient of L, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from cudeform.family import OPERATORS
from cudeform.spec import BIAS, Operand, Operator

from . import flops, impl
from .static_args import SCHEMA

LIBRARY = torch.library.Library("cudeform", "FRAGMENT")
KEYS = ("CPU", "CUDA")

# Private names of torch. If they are missing, every call takes the general path, through a
# transformable Function and the whole dispatcher. That is correct, but slower.
_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)
_keys = getattr(torch._C, "_dispatch_keys", None)

# Dispatch keys of an ordinary tensor on the CPU: no subclass, no other layout, no lazy conjugate.
PLAIN = _keys(torch.empty(0)).raw_repr() if _keys else None


class TorchOp:
    """One operator of ``torch.ops.cudeform``, and the fastest correct way to call it.

    A call can take four paths, because no single one serves all of torch:

    * Compiled calls use the operator (``overload``): Dynamo does not support an
      ``autograd.Function`` with a rule for forward mode. While torch exports to ONNX, they use
      ``onnx_node`` instead.
    * Calls under torch.func or in forward mode use ``transformable``, an ``autograd.Function``:
      torch.func rejects the derivatives of an operator, and forward mode silently drops them.
    * Other calls that autograd records use ``recorded``, an ``autograd.Function`` with the same
      backward. It takes half the time of the Function that torch.library would make.
    * Calls without derivatives use ``compute``, which calls the implementation itself where the
      dispatcher would add nothing.

    Attributes:
        name: name of the operator.
        tensors: number of its first arguments that are tensors.
        impl: implementation on plain tensors (``impl.py``).
        overload: ``torch.ops.cudeform.<name>.default``.
        transformable, recorded: see above; set by :meth:`set_derivatives`.
        onnx_node: traces an ONNX node, None where the operator has none; set by ``onnx.py``.
    """

    def __init__(self, schema: str, operator: Operator, function: Callable[..., Any]) -> None:
        """Define the operator of a schema, implemented by a function of ``impl.py``."""
        self.name, _, arguments = schema.partition("(")
        self.tensors = arguments.count("Tensor", 0, arguments.index("->"))
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.impl = partial(function, operator, impl.Eager)
        for key in KEYS:
            LIBRARY.impl(
                self.name, partial(impl.for_dispatcher, function, operator, impl.Eager), key
            )
        fake = partial(impl.for_dispatcher, function, operator, impl.Fake)
        torch.library.register_fake(self._qualified, fake, lib=LIBRARY)
        self.overload = getattr(torch.ops.cudeform, self.name).default
        self.transformable: Any = None
        self.recorded: Any = None
        self.onnx_node: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """Call with tensors, None for absent ones, and static arguments."""
        if torch.compiler.is_compiling():
            if self.onnx_node is not None and torch.onnx.is_in_onnx_export():
                return self.onnx_node(*args)
            return self.overload(*args)
        if _dispatch_modes():
            flops.register()
        if _functorch_active() or impl.in_forward_mode():
            return self.transformable.apply(*args)
        if _requires_grad(args[: self.tensors]):
            if torch.jit.is_tracing():
                return self.overload(*args)  # a traced Function could not be saved
            return self.recorded.apply(*args)
        return self.compute(*args)

    def compute(self, *args: Any) -> Any:
        """Compute without derivatives."""
        with _below_autograd():
            if _are_plain(args[: self.tensors]):
                return self.impl(*args)
            return self.overload(*args)

    def primal(self, *args: Any) -> Any:
        """The operator itself, for ``transformable``, whose own rule computes the tangent."""
        with impl.tangents_handled():
            return self.overload(*args)

    def set_derivatives(self, function: Any) -> None:
        """Take the derivatives and the rule for vmap from an ``autograd.Function``."""
        self.transformable = function
        self.recorded = _recorded(self, function)
        torch.library.register_autograd(
            self._qualified, function.backward, setup_context=function.setup_context, lib=LIBRARY
        )
        # Under torch.func the batched call must be differentiable, so it goes through __call__.
        # Inside the dispatcher, autograd has been handled already: call the operator itself.
        function.vmap = staticmethod(partial(function.batched, self))
        torch.library.register_vmap(
            self._qualified, partial(function.batched, self.overload), lib=LIBRARY
        )

    @property
    def _qualified(self) -> str:
        return f"cudeform::{self.name}"


def _recorded(op: TorchOp, function: Any) -> Any:
    """An ``autograd.Function`` for calls outside the transforms of torch.func."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = op.compute(*args)
        function.setup_context(ctx, args, output)
        return output

    # Users see this name in grad_fn and in profiles.
    name = op.name.title().replace("_", "")
    methods = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return type(name, (torch.autograd.Function,), methods)


# The next two functions run in every call. A loop is faster than any() and all().


def _requires_grad(tensors: tuple[Any, ...]) -> bool:
    """Whether autograd has to record a call."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def _are_plain(tensors: tuple[Any, ...]) -> bool:
    """Whether the dispatcher would do nothing but call the implementation for the CPU."""
    if _keys is None or _dispatch_modes() or torch.jit.is_tracing():
        return False
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and _keys(tensor).raw_repr() != PLAIN:
            return False
    return True


class Functions(NamedTuple):
    """The functions of an operator."""

    forward: TorchOp
    backward: TorchOp
    jvp: TorchOp
    double_backward: TorchOp


def _functions(operator: Operator) -> Functions:
    """Define the functions of an operator for torch."""
    name, operands = operator.name, operator.operands
    differentiated = [operand for operand in operands if operand.role != BIAS]
    all_operands, without_bias = (
        ", ".join(map(_declared, each)) for each in (operands, differentiated)
    )
    tangents = ", ".join(f"Tensor? {operand.public}_tangent" for operand in operands)
    grad_output, gradients, results = "Tensor grad_output", len(operands), 1 + len(differentiated)
    return Functions(
        TorchOp(f"{name}({all_operands}, {SCHEMA}) -> Tensor", operator, impl.forward),
        TorchOp(
            f"{name}_backward({grad_output}, {all_operands}, bool[{gradients}] needs, {SCHEMA}) "
            f"-> {_tensors(gradients)}",
            operator,
            impl.backward,
        ),
        TorchOp(f"{name}_jvp({without_bias}, {tangents}, {SCHEMA}) -> Tensor", operator, impl.jvp),
        TorchOp(
            f"{name}_double_backward({grad_output}, {without_bias}, {tangents}, "
            f"bool[{results}] needs, {SCHEMA}) -> {_tensors(results)}",
            operator,
            impl.double_backward,
        ),
    )


def _tensors(count: int) -> str:
    return f"({', '.join(['Tensor'] * count)})"


def _declared(operand: Operand) -> str:
    return f"Tensor{'?' * operand.optional} {operand.public}"


FUNCTIONS = {name: _functions(operator) for name, operator in OPERATORS.items()}

flops.register()
