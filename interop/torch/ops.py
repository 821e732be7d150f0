"""The operators of ``torch.ops.cudeform``: schemas, kernels, shapes, and how they are called.

With ``L = sum(grad_output * output)``, all derivatives come from four products of the engine:

* forward, and backward: the gradient of L;
* jvp: the tangent of the output;
* double_backward: the gradient of ``sum(tangents * gradient of L)``. Second derivatives commute:
  with these tangents it is the tangent of the gradient of L as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from . import kernels
from .engine import Computed, Traced, in_forward_mode
from .settings import SCHEMA

LIBRARY = torch.library.Library("cudeform", "FRAGMENT")
KEYS = ("CPU", "CUDA")

OPERANDS = "Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask"
WITHOUT_BIAS = "Tensor input, Tensor offset, Tensor weight, Tensor? mask"
TANGENTS = ", ".join(
    f"Tensor? {name}_tangent" for name in ("input", "offset", "weight", "bias", "mask")
)
FIVE = "(Tensor, Tensor, Tensor, Tensor, Tensor)"

# Without these private names of torch every call takes the way of a transformed one, and through
# all of the dispatcher: right, but slow.
_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)


class Operator:
    """An operator, and an ``autograd.Function`` that stands for it where it may.

    Transforms of torch.func and forward mode do not see the derivatives of operators: the first
    refuse them, the second gives zeros without a word. A Function they understand; Dynamo refuses
    it, and takes the operator itself. All other calls need either no derivatives or a Function as
    torch.library makes them of the operator's derivatives; ours gets there in half the time.
    """

    def __init__(self, schema: str, kernel: Callable[..., Any]) -> None:
        """Define an operator by its schema and the function that computes it."""
        self.name, _, arguments = schema.partition("(")
        self.tensors = arguments.count("Tensor", 0, arguments.index("->"))
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key in KEYS:
            LIBRARY.impl(self.name, partial(kernel, Computed), key)
        torch.library.register_fake(self._qualified, partial(kernel, Traced), lib=LIBRARY)
        self.operator = getattr(torch.ops.cudeform, self.name).default
        self.function: Any = None
        self.eager: Any = None

    def __call__(self, *args: Any) -> Any:
        """Call with tensors, absent ones None, and settings."""
        if torch.compiler.is_compiling():
            return self.operator(*args)
        if _functorch_active() or in_forward_mode():
            return self.function.apply(*args)
        if torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in args[: self.tensors]
        ):
            # A recorded Function could not be saved; the operator can.
            return (self.operator if torch.jit.is_tracing() else self.eager.apply)(*args)
        with _below_autograd():
            return self.operator(*args)

    def derive(self, function: Any) -> None:
        """Take the derivatives and the rule for vmap from an ``autograd.Function``."""
        self.function = function
        self.eager = _eager(self.operator, function)
        torch.library.register_autograd(
            self._qualified, function.backward, setup_context=function.setup_context, lib=LIBRARY
        )
        # On the way through the dispatcher a Function would be lost; on its own it finds the next.
        function.vmap = staticmethod(partial(function.batched, self))
        torch.library.register_vmap(
            self._qualified, partial(function.batched, self.operator), lib=LIBRARY
        )

    @property
    def _qualified(self) -> str:
        return f"cudeform::{self.name}"


def _eager(operator: Any, function: Any) -> Any:
    """The Function for calls that nothing transforms."""

    def forward(ctx: Any, *args: Any) -> Any:
        with _below_autograd():
            output = operator(*args)
        function.setup_context(ctx, args, output)
        return output

    # Users meet the name in grad_fn and in profiles.
    name = operator._opname.title().replace("_", "")
    methods = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return type(name, (torch.autograd.Function,), methods)


forward = Operator(f"deform_conv2d({OPERANDS}, {SCHEMA}) -> Tensor", kernels.forward)
backward = Operator(
    f"deform_conv2d_backward(Tensor grad_output, {OPERANDS}, bool[5] needs, {SCHEMA}) -> {FIVE}",
    kernels.backward,
)
jvp = Operator(f"deform_conv2d_jvp({WITHOUT_BIAS}, {TANGENTS}, {SCHEMA}) -> Tensor", kernels.jvp)
double_backward = Operator(
    f"deform_conv2d_double_backward(Tensor grad_output, {WITHOUT_BIAS}, {TANGENTS}, "
    f"bool[5] needs, {SCHEMA}) -> {FIVE}",
    kernels.double_backward,
)
