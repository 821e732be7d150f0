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
from .impl import Computed, Traced, in_forward_mode
from .static_args import SCHEMA

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
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)
_keys = getattr(torch._C, "_dispatch_keys", None)

# What the dispatcher sees of an ordinary tensor on the CPU: no subclass, no other layout, no bit
# that stands for an operation not done yet.
PLAIN = _keys(torch.empty(0)).raw_repr() if _keys else None


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
        self.kernel = partial(kernel, Computed)
        for key in KEYS:
            LIBRARY.impl(self.name, partial(kernels.for_dispatcher, kernel, Computed), key)
        fake = partial(kernels.for_dispatcher, kernel, Traced)
        torch.library.register_fake(self._qualified, fake, lib=LIBRARY)
        self.operator = getattr(torch.ops.cudeform, self.name).default
        self.function: Any = None
        self.eager: Any = None

    def __call__(self, *args: Any) -> Any:
        """Call with tensors, absent ones None, and settings."""
        if torch.compiler.is_compiling():
            return self.operator(*args)
        if _functorch_active() or in_forward_mode():
            return self.function.apply(*args)
        if _records(args[: self.tensors]):
            # A recorded Function could not be saved; the operator can.
            return (self.operator if torch.jit.is_tracing() else self.eager.apply)(*args)
        return self.compute(*args)

    def compute(self, *args: Any) -> Any:
        """Compute, without derivatives."""
        with _below_autograd():
            if _are_plain(args[: self.tensors]):
                return self.kernel(*args)
            return self.operator(*args)

    def derive(self, function: Any) -> None:
        """Take the derivatives and the rule for vmap from an ``autograd.Function``."""
        self.function = function
        self.eager = _eager(self, function)
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


def _eager(operator: Operator, function: Any) -> Any:
    """The Function for calls that nothing transforms."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = operator.compute(*args)
        function.setup_context(ctx, args, output)
        return output

    # Users meet the name in grad_fn and in profiles.
    name = operator.name.title().replace("_", "")
    methods = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return type(name, (torch.autograd.Function,), methods)


# Loops instead of any() and all(): these are on every call's way.


def _records(tensors: tuple[Any, ...]) -> bool:
    """Whether autograd shall know of a call."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def _are_plain(tensors: tuple[Any, ...]) -> bool:
    """Whether the dispatcher would find nothing to do but call the kernel for the CPU."""
    if _keys is None or _dispatch_modes() or torch.jit.is_tracing():
        return False
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and _keys(tensor).raw_repr() != PLAIN:
            return False
    return True


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
