"""Between tensors and the engine: checks, and views of the same memory. Nothing is copied.

On the CPU the engine gets NumPy views of the tensors; on a GPU it gets their addresses, the stream
that is current in torch, and memory from torch's allocator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from cudeform import geometry
from cudeform.geometry import GRADIENTS, Geometry, check_devices, check_dtypes
from cudeform.operands import Gradients, Operands
from cudeform.options import Options

from .torch_settings import Settings

Tensor = Any

DTYPE_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


class Argument(NamedTuple):
    """What is checked of a tensor."""

    shape: tuple[int, ...]
    dtype: Any
    device: Any


class Computed:
    """Tensors with contents: the engine runs."""

    @staticmethod
    def geometry(
        operands: Operands,
        settings: Settings,
        grad_output: Tensor | None = None,
        tangents: Gradients = Gradients(),
    ) -> Geometry:
        """Geometry of a call whose tensors all fit together; found once for equal calls."""
        arguments = _arguments(operands, grad_output, tangents)
        return _cached(arguments, *map(tuple, settings[:3]))

    @staticmethod
    def run(
        function: Callable[..., None],
        operands: Operands,
        g: Geometry,
        settings: Settings,
        *tensors: Any,
    ) -> None:
        """Call a function of the engine, with tensors and tuples of tensors."""
        if operands.input.is_cuda:
            _run_on_gpu(function, operands, g, settings.options(), tensors)
        else:
            views = [_views(_array, tensor) for tensor in tensors]
            function(_operands(_array, operands), g, settings.options(), *views)


class Traced:
    """Tensors without contents, of sizes that may be symbols: only shapes are computed."""

    @staticmethod
    def geometry(
        operands: Operands,
        settings: Settings,
        grad_output: Tensor | None = None,
        tangents: Gradients = Gradients(),
    ) -> Geometry:
        """Geometry of a call whose tensors all fit together."""
        return _checked(_arguments(operands, grad_output, tangents), *settings[:3])

    @staticmethod
    def run(*_: Any) -> None:
        """Compute nothing."""


def _arguments(
    operands: Operands, grad_output: Tensor | None, tangents: Gradients
) -> tuple[Argument | None, ...]:
    """What is checked of operands, grad_output and tangents, in the order of their names."""
    o = operands
    tensors = (o.input, o.offset, o.weight, o.bias, o.mask, grad_output, *tangents)
    if forward_ad._current_level >= 0:
        _check_no_tangents(tensors)
    return tuple(None if t is None else (t.shape, t.dtype, t.device) for t in tensors)


def _check_no_tangents(tensors: tuple[Tensor | None, ...]) -> None:
    """Refuse to drop a tangent: under forward mode an operator's own function must be called."""
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                "forward-mode differentiation goes through cudeform.deform_conv2d, not through the "
                "operators in torch.ops.cudeform, and not through torch.compile"
            )


NAMES = (*GRADIENTS, "grad_output", *(f"{name}_tangent" for name in GRADIENTS))


def _checked(
    arguments: tuple[Argument | None, ...], stride: Any, padding: Any, dilation: Any
) -> Geometry:
    present = {n: Argument(*a) for n, a in zip(NAMES, arguments, strict=True) if a is not None}
    check_dtypes({name: dtype_name(argument.dtype) for name, argument in present.items()})
    check_devices({name: argument.device for name, argument in present.items()})
    shapes = {name: tuple(argument.shape) for name, argument in present.items()}
    g = _geometry(shapes, stride, padding, dilation)
    if "grad_output" in shapes:
        g.check_grad_output(shapes["grad_output"])
    _check_tangents(g, shapes)
    return g


# Most calls are like one before.
_cached = lru_cache(maxsize=256)(_checked)
