"""ONNX: what torch's exporter makes of the operators of ``torch.ops.cudeform``.

A deformable convolution becomes one node ``DeformConv``, which ONNX has since opset 19, for
bfloat16 since opset 22. Derivatives have no ONNX form and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from os import PathLike
from typing import Any

import torch

from . import dispatch
from .static_args import unpack

# The default of torch.onnx.export, and what a call in bfloat16 needs.
OPSET, BFLOAT16_OPSET = 20, 22
FIRST_OPSET = 19


def export_onnx(
    model: Any, args: tuple[Any, ...] = (), path: str | PathLike[str] | None = None, **kwargs: Any
) -> Any:
    """``torch.onnx.export`` of a model that contains cudeform's layers or functions.

    Each deformable convolution becomes one node ``DeformConv``. Gradients have no ONNX form.

    Args:
        model: a ``torch.nn.Module``, in evaluation mode, or a ``torch.export.ExportedProgram``.
        args: example inputs.
        path: where the model is written; None only returns it.
        kwargs: of ``torch.onnx.export``, such as ``dynamic_shapes``, ``input_names`` and
            ``external_data``. ``opset_version`` is 20 by default, 22 where a parameter, a buffer or
            an input is bfloat16; ``custom_translation_table`` is added to
            :func:`onnx_translations`.

    Returns:
        A ``torch.onnx.ONNXProgram``; its ``model_proto`` is the model.

    Raises:
        ImportError: onnx or onnxscript, which torch's exporter needs, is not installed.
        ValueError: something in the model has no ONNX form, or needs a later opset.
        torch.onnx.errors.OnnxExporterError: torch cannot export another part of the model.

    Example:
        >>> import torch
        >>> from cudeform.interop.torch import DeformConv2dPack, export_onnx
        >>> layer = DeformConv2dPack(3, 8, 3, padding=1).eval()
        >>> program = export_onnx(layer, (torch.zeros(1, 3, 16, 16),), verbose=False)
        >>> [node.op_type for node in program.model_proto.graph.node]
        ['Conv', 'DeformConv']
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(
            "export to ONNX needs the packages onnx and onnxscript, not installed: "
            f"{', '.join(missing)}; pip install 'cudeform[onnx]'"
        )
    table = onnx_translations() | (kwargs.pop("custom_translation_table", None) or {})
    opset = kwargs.pop("opset_version", None) or _default_opset(model, args, kwargs.get("kwargs"))
    if not kwargs.pop("dynamo", True):
        raise ValueError(
            "export_onnx needs dynamo=True, got False: torch's exporter by TorchScript does not "
            "take the translations"
        )
    try:
        return torch.onnx.export(
            model,
            args,
            path,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=table,
            **kwargs,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from error


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """The argument ``custom_translation_table`` for ``torch.onnx.export``.

    For callers of the exporter itself, which needs ``opset_version`` 19 or later, 22 for bfloat16.

    Returns:
        For each operator of ``torch.ops.cudeform`` a function that builds its ONNX nodes.

    Example:
        >>> import torch
        >>> from cudeform.interop.torch import DeformConv2dPack, onnx_translations
        >>> layer = DeformConv2dPack(3, 8, 3, padding=1).eval()
        >>> program = torch.onnx.export(
        ...     layer,
        ...     (torch.zeros(1, 3, 16, 16),),
        ...     dynamo=True,
        ...     opset_version=20,
        ...     custom_translation_table=onnx_translations(),
        ...     verbose=False,
        ... )
        >>> [node.op_type for node in program.model_proto.graph.node]
        ['Conv', 'DeformConv']
    """
    derivatives = (dispatch.backward, dispatch.jvp, dispatch.double_backward)
    table: dict[Any, Callable[..., Any]] = {op.overload: _refuser(op.name) for op in derivatives}
    table[dispatch.forward.overload] = _deform_conv
    return table


class NoOnnxForm(ValueError):
    """A call has no ONNX form, or not in this opset."""


# torch's exporter reads the annotations: a sequence of integers is an attribute, the rest tensors.
def _deform_conv(
    input: Any, offset: Any, weight: Any, bias: Any, mask: Any, static_args: Sequence[int]
) -> Any:
    """One node ``DeformConv``."""
    from onnxscript import values

    static = unpack(static_args)
    (top, bottom), (left, right) = static.padding
    out_channels, group_channels, *kernel = _static_sizes("weight", weight, (0, 1, 2, 3))
    (channels,) = _static_sizes("input", input, (1,))
    (offset_channels,) = _static_sizes("offset", offset, (1,))
    return values.Opset("", _opset(input.dtype.name)).DeformConv(
        input,
        weight,
        offset,
        bias,
        mask,
        kernel_shape=kernel,
        strides=static.stride,
        pads=[top, left, bottom, right],
        dilations=static.dilation,
        group=channels // group_channels,
        offset_group=offset_channels // (2 * kernel[0] * kernel[1]),
    )


def _static_sizes(name: str, value: Any, axes: Sequence[int]) -> list[int]:
    """Sizes of a tensor that a node has as attributes."""
    sizes = [value.shape[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        raise NoOnnxForm(
            f"ONNX needs numbers for the channels of {name} and for the size of the kernel, got "
            f"{name} of shape {value.shape}: only batch and image sizes can be dynamic"
        )
    return sizes


def _opset(dtype: str) -> int:
    """The opset of a node ``DeformConv``."""
    from onnxscript import evaluator

    needed = BFLOAT16_OPSET if dtype == "BFLOAT16" else FIRST_OPSET
    target = getattr(getattr(evaluator.default(), "opset", None), "version", needed)
    if target < needed:
        raise NoOnnxForm(
            f"DeformConv of {dtype.lower()} needs opset {needed} or later, got opset_version = "
            f"{target}: pass opset_version={needed}"
        )
    return needed


def _refuser(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise NoOnnxForm(
            f"cudeform::{name} has no ONNX form: only deform_conv2d itself has one, its derivatives "
            "have none; export the model for inference"
        )

    return refuse


def _default_opset(model: Any, args: Any, kwargs: Any) -> int:
    tensors = [*args, *(kwargs or {}).values()]
    if isinstance(model, torch.nn.Module):
        tensors += [*model.parameters(), *model.buffers()]
    elif isinstance(model, torch.export.ExportedProgram):
        tensors += [*model.state_dict.values()]
    is_bfloat16 = any(getattr(tensor, "dtype", None) is torch.bfloat16 for tensor in tensors)
    return BFLOAT16_OPSET if is_bfloat16 else OPSET


def _refusal(error: BaseException | None) -> NoOnnxForm | None:
    """The refusal that torch's exporter has wrapped into its own errors."""
    while error is not None and not isinstance(error, NoOnnxForm):
        error = error.__cause__
    return error
