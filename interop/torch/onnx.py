"""Export to ONNX of models with deformable convolutions and deformable attention.

There are two ways to the nodes. When ``torch.onnx.export`` traces a module, a deformable
convolution is traced as the node itself. In a program that ``torch.export`` has made, operators are
translated; deformable attention always takes this way. Derivatives have no ONNX form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from os import PathLike
from typing import Any

import torch

from cudeform.family import DEFORM_CONV2D, MS_DEFORM_ATTN

from . import dispatch
from .onnx_nodes import (
    FIRST_BFLOAT16_OPSET,
    FIRST_OPSET,
    NoOnnxForm,
    first_opset,
    traced_convolution,
    translated_attention,
    translated_convolution,
)

OPSET = 20  # torch's default

CONVOLUTION = dispatch.FUNCTIONS[DEFORM_CONV2D.name].forward
ATTENTION = dispatch.FUNCTIONS[MS_DEFORM_ATTN.name].forward


def export_onnx(
    model: Any, args: tuple[Any, ...] = (), path: str | PathLike[str] | None = None, **kwargs: Any
) -> Any:
    """``torch.onnx.export`` of a model that contains cudeform's layers or functions.

    Each deformable convolution becomes one node ``DeformConv``. Deformable attention becomes
    standard operators, with one ``GridSample`` for each level. Gradients have no ONNX form.

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

    ``torch.onnx.export`` itself needs it for a ``torch.export.ExportedProgram``, and for a module
    with deformable attention. For convolutions ``opset_version`` must be 19 or later, 22 for
    bfloat16.

    Returns:
        For each operator of ``torch.ops.cudeform`` a function that builds its ONNX nodes.

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
    table[CONVOLUTION.overload] = translated_convolution
    table[ATTENTION.overload] = translated_attention
    return table


def _refuser(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise NoOnnxForm(
            f"torch.ops.cudeform.{name} has no ONNX form: only the forwards of deform_conv2d and "
            "ms_deform_attn have one"
        )

    return refuse


def _needed_opset(model: Any, args: Sequence[Any], kwargs: dict[str, Any] | None) -> int:
    tensors = [*args, *(kwargs or {}).values()]
    if isinstance(model, torch.nn.Module):
        tensors += [*model.parameters(), *model.buffers()]
    elif isinstance(model, torch.export.ExportedProgram):
        tensors += model.state_dict.values()
    return first_opset(any(getattr(t, "dtype", None) is torch.bfloat16 for t in tensors))


def _refusal(error: BaseException | None) -> NoOnnxForm | None:
    """Find our error among the causes of an error of torch's exporter."""
    while error is not None and not isinstance(error, NoOnnxForm):
        error = error.__cause__
    return error


CONVOLUTION.onnx_node = traced_convolution
