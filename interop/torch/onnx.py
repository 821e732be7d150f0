"""Export to ONNX: a deformable convolution becomes one node ``DeformConv``.

ONNX has this node since opset 19, for bfloat16 since opset 22. There are two ways to it. When
``torch.onnx.export`` traces a module, a call is traced as the node itself. In a program that
``torch.export`` has made, the operator is translated. Derivatives have no ONNX form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from os import PathLike
from typing import Any

import torch

from cudeform.family import OPERATORS

from . import dispatch, impl
from .static_args import unpack
from .views import Tensor

# torch's default opset, and the first opsets with DeformConv and with DeformConv of bfloat16.
OPSET, FIRST_OPSET, FIRST_BFLOAT16_OPSET = 20, 19, 22

# The operator that the node stands for.
OPERATOR = OPERATORS["deform_conv2d"]
FORWARD = dispatch.FUNCTIONS[OPERATOR.name].forward


class NoOnnxForm(ValueError):
    """A part of the model has no ONNX form, or not in this opset."""


def export_onnx(
    model: Any, args: tuple[Any, ...] = (), path: str | PathLike[str] | None = None, **kwargs: Any
) -> Any:
    """``torch.onnx.export`` of a model that contains cudeform's layers or functions.

    Each deformable convolution becomes one node ``DeformConv``. Gradients have no ONNX form.

    Args:
        model: a ``torch.nn.Module``, in evaluation mode, or a ``torch.export.ExportedProgram``.
        args: example inputs.
        path: file to write; None writes no file.
        kwargs: other arguments of ``torch.onnx.export``, such as ``dynamic_shapes``,
            ``input_names`` and ``external_data``. ``opset_version`` is 20 by default, 22 if a
            parameter, a buffer or an input is bfloat16.

    Returns:
        A ``torch.onnx.ONNXProgram``; its ``model_proto`` is the model.

    Raises:
        ImportError: onnx or onnxscript, which torch's exporter needs, is not installed.
        ValueError: a call in the model has no ONNX form, or needs a later opset.
        torch.onnx.OnnxExporterError: torch cannot export another part of the model.

    Example:
        >>> import torch
        >>> from cudeform.interop.torch import DeformConv2dPack, export_onnx
        >>> layer = DeformConv2dPack(3, 8, 3, padding=1).eval()
        >>> image = torch.zeros(1, 3, 16, 16)
        >>> program = export_onnx(layer, (image,), verbose=False)  # doctest: +SKIP
        >>> [node.op_type for node in program.model_proto.graph.node]  # doctest: +SKIP
        ['Conv', 'DeformConv']
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(
            "export to ONNX needs the packages onnx and onnxscript, not installed: "
            f"{', '.join(missing)}; pip install 'cudeform[onnx]'"
        )
    needed = _needed_opset(model, args, kwargs.get("kwargs"))
    opset = kwargs.pop("opset_version", None) or max(OPSET, needed)
    if opset < needed:
        raise NoOnnxForm(
            f"opset_version must be at least {needed}, got {opset}: ONNX has DeformConv since "
            f"opset {FIRST_OPSET}, for bfloat16 since opset {FIRST_BFLOAT16_OPSET}"
        )
    table = onnx_translations() | (kwargs.pop("custom_translation_table", None) or {})
    settings = {"dynamo": True, "opset_version": opset, "custom_translation_table": table}
    try:
        return torch.onnx.export(model, args, path, **settings, **kwargs)
    except torch.onnx.OnnxExporterError as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from error


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """The argument ``custom_translation_table`` of ``torch.onnx.export``.

    It is needed to export a ``torch.export.ExportedProgram`` with ``torch.onnx.export`` itself; a
    module needs no translations. ``opset_version`` must be 19 or later, 22 for bfloat16.

    Returns:
        For each operator of ``torch.ops.cudeform`` a function that builds its ONNX node.

    Example:
        >>> import torch
        >>> from cudeform.interop.torch import onnx_translations
        >>> torch.ops.cudeform.deform_conv2d.default in onnx_translations()
        True
    """
    table: dict[Any, Callable[..., Any]] = {
        op.overload: _refuser(op.name)
        for functions in dispatch.FUNCTIONS.values()
        for op in functions
    }
    table[FORWARD.overload] = _translated
    return table


def _traced(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    static_args: Sequence[int],
) -> Tensor:
    """Trace the node."""
    output = impl.forward(OPERATOR, impl.Fake, input, offset, weight, bias, mask, static_args)
    return torch.onnx.ops.symbolic(
        "DeformConv",
        _inputs(input, offset, weight, bias, mask),
        _attributes(input.shape, offset.shape, weight.shape, static_args),
        dtype=input.dtype,
        shape=output.shape,
        version=_first_opset(input.dtype is torch.bfloat16),
    )


# torch's exporter reads the annotations: it passes a sequence of integers as an attribute.
def _translated(
    input: Any, offset: Any, weight: Any, bias: Any, mask: Any, static_args: Sequence[int]
) -> Any:
    """Translate the operator in an exported program to the node."""
    from onnxscript import values

    opset = values.Opset("", _first_opset(input.dtype.name == "BFLOAT16"))
    return opset.DeformConv(
        *_inputs(input, offset, weight, bias, mask),
        **_attributes(input.shape, offset.shape, weight.shape, static_args),
    )


def _inputs(input: Any, offset: Any, weight: Any, bias: Any, mask: Any) -> tuple[Any, ...]:
    """Inputs in the order of the node."""
    return input, weight, offset, bias, mask


def _attributes(
    input: Sequence[Any], offset: Sequence[Any], weight: Sequence[Any], static_args: Sequence[int]
) -> dict[str, Any]:
    """Attributes of the node, from the shapes of its inputs."""
    sizes = (input[1], offset[1], *weight)
    if not all(isinstance(size, int) for size in sizes):
        raise NoOnnxForm(
            "ONNX needs numbers for the channels of input and offset and for the shape of weight, "
            f"got shapes {input}, {offset} and {weight}: only batch and image sizes can be dynamic"
        )
    channels, offset_channels, _, group_channels, *kernel = sizes
    settings: Any = unpack(OPERATOR, static_args).settings  # integers per axis
    (top, bottom), (left, right) = settings.padding
    return {
        "kernel_shape": kernel,
        "strides": list(settings.stride),
        "pads": [top, left, bottom, right],
        "dilations": list(settings.dilation),
        "group": channels // group_channels,
        "offset_group": offset_channels // (2 * kernel[0] * kernel[1]),
    }


def _first_opset(is_bfloat16: bool) -> int:
    return FIRST_BFLOAT16_OPSET if is_bfloat16 else FIRST_OPSET


def _refuser(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise NoOnnxForm(
            f"torch.ops.cudeform.{name} has no ONNX form: only the forward of deform_conv2d has one"
        )

    return refuse


def _needed_opset(model: Any, args: Sequence[Any], kwargs: dict[str, Any] | None) -> int:
    tensors = [*args, *(kwargs or {}).values()]
    if isinstance(model, torch.nn.Module):
        tensors += [*model.parameters(), *model.buffers()]
    elif isinstance(model, torch.export.ExportedProgram):
        tensors += model.state_dict.values()
    return _first_opset(any(getattr(t, "dtype", None) is torch.bfloat16 for t in tensors))


def _refusal(error: BaseException | None) -> NoOnnxForm | None:
    """Find our error among the causes of an error of torch's exporter."""
    while error is not None and not isinstance(error, NoOnnxForm):
        error = error.__cause__
    return error


FORWARD.onnx_node = _traced
