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

from cudeform import engine, geometry
from cudeform.arrays import DeviceArray, Operands, Tangents
from cudeform.checks import GRADIENTS, check_devices, check_dtypes
from cudeform.geometry import Geometry
from cudeform.options import Options

from .static_args import Settings

Tensor = Any
Tensors = tuple[Any, ...]

DTYPE_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}

NO_TANGENTS = Tangents()


class Computed:
    """Tensors with contents: the engine runs."""

    @staticmethod
    def geometry(
        operands: Tensors,
        settings: Settings,
        grad_output: Tensor | None = None,
        tangents: Tangents = NO_TANGENTS,
    ) -> Geometry:
        """Geometry of a call whose tensors all fit together; found once for equal calls."""
        arguments = _arguments(operands, grad_output, tangents)
        return _cached(arguments, settings.stride, settings.padding, settings.dilation)

    @staticmethod
    def run(
        function: Callable[..., None],
        operands: Tensors,
        g: Geometry,
        options: Options,
        *tensors: Any,
    ) -> None:
        """Call a function of the engine, with tensors and named tuples of tensors."""
        if operands[0].is_cuda:
            _run_on_gpu(function, operands, g, options, *tensors)
        else:
            views = [_viewed(_array, tensor) for tensor in tensors]
            function(Operands(*_views(_array, operands)), g, options, *views)


class Traced:
    """Tensors without contents, of sizes that may be symbols: only shapes are computed."""

    @staticmethod
    def geometry(
        operands: Tensors,
        settings: Settings,
        grad_output: Tensor | None = None,
        tangents: Tangents = NO_TANGENTS,
    ) -> Geometry:
        """Geometry of a call whose tensors all fit together."""
        arguments = _arguments(operands, grad_output, tangents)
        return _checked(arguments, settings.stride, settings.padding, settings.dilation)

    @staticmethod
    def run(*_: Any) -> None:
        """Compute nothing."""


class Argument(NamedTuple):
    """What is checked of a tensor."""

    shape: Any
    dtype: Any
    device: Any


NAMES = (*GRADIENTS, "grad_output", *(f"the tangent of {name}" for name in GRADIENTS))


def _arguments(
    operands: Tensors, grad_output: Tensor | None, tangents: Tangents
) -> tuple[tuple[Any, Any, Any] | None, ...]:
    """What is checked of the tensors, in the order of ``NAMES``."""
    tensors = (*operands, grad_output, *tangents)
    if in_forward_mode():
        _refuse_tangents(tensors)
    return tuple([None if t is None else (t.shape, t.dtype, t.device) for t in tensors])


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def _refuse_tangents(tensors: Tensors) -> None:
    """Torch would drop the tangents of what reaches an operator, without a word."""
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                "forward-mode differentiation of cudeform works through cudeform.deform_conv2d, "
                "neither through the operators in torch.ops.cudeform nor under torch.compile"
            )


def _checked(
    arguments: tuple[tuple[Any, Any, Any] | None, ...], stride: Any, padding: Any, dilation: Any
) -> Geometry:
    present = {n: Argument(*a) for n, a in zip(NAMES, arguments, strict=True) if a is not None}
    check_dtypes({name: name_of(argument.dtype) for name, argument in present.items()})
    check_devices({name: argument.device for name, argument in present.items()})
    shapes = {name: tuple(argument.shape) for name, argument in present.items()}
    # Not geometry_of, which keeps what it finds: symbols have no hash.
    g: Geometry = geometry._geometry.__wrapped__(
        *(shapes.get(name) for name in ("input", "offset", "weight", "bias", "mask")),
        geometry.as_pair("stride", stride, 1),
        geometry.as_padding(padding),
        geometry.as_pair("dilation", dilation, 1),
    )
    if "grad_output" in shapes:
        g.check_grad_output(shapes["grad_output"])
    _check_tangents(g, shapes)
    return g


# Most calls are like one before.
_cached = lru_cache(maxsize=256)(_checked)


def _check_tangents(g: Geometry, shapes: dict[str, Any]) -> None:
    expected = (g.input_shape, g.offset_shape, g.weight_shape, (g.out_channels,), g.mask_shape)
    for name, shape in zip(NAMES[-len(expected) :], expected, strict=True):
        if shapes.get(name, shape) != shape:
            raise ValueError(f"{name} must have its shape, {shape}, got {shapes[name]}")


def name_of(dtype: Any) -> str:
    """Name of a dtype, as Geometry knows it."""
    return DTYPE_NAMES.get(dtype) or str(dtype).removeprefix("torch.")


def _viewed(view: Callable[[Tensor], Any], tensors: Any) -> Any:
    """A view of a tensor, or a named tuple of views."""
    if isinstance(tensors, tuple):
        return type(tensors)(*_views(view, tensors))
    return view(tensors)


def _views(view: Callable[[Tensor], Any], tensors: Tensors) -> list[Any]:
    return [None if tensor is None else view(tensor) for tensor in tensors]


def _array(tensor: Tensor) -> Any:
    """The tensor as a NumPy array over the same memory."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(_bfloat16())
    return tensor.numpy()


def _bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise ImportError(
            "bfloat16 tensors on the CPU need the package ml_dtypes: pip install ml_dtypes"
        ) from error
    return bfloat16


def _run_on_gpu(
    function: Callable[..., None],
    operands: Tensors,
    g: Geometry,
    options: Options,
    *tensors: Any,
) -> None:
    index = operands[0].device.index
    if torch.are_deterministic_algorithms_enabled():
        options = replace(options, deterministic=True)
    with torch.cuda.device(index):
        # This thread's stream in torch: autograd's threads have it right, CuPy's own they have not.
        stream = torch.cuda.current_stream(index).cuda_stream
        full = (torch.cuda.OutOfMemoryError,)
        device = engine.gpu_device(index, stream, _Memory, out_of_memory=full)
        views = [_viewed(_device_array, tensor) for tensor in tensors]
        given = Operands(*_views(_device_array, operands))
        function(given, g, options, *views, device=device)


def _device_array(tensor: Tensor) -> DeviceArray:
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    return DeviceArray(tensor.data_ptr(), shape, strides, name_of(tensor.dtype))


class _Memory:
    """Memory of torch's allocator on the current device and stream, released with the object."""

    def __init__(self, nbytes: int) -> None:
        self._tensor = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        self.pointer: int = self._tensor.data_ptr()
