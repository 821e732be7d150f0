"""Runs models that were exported to ONNX with onnxruntime."""

from __future__ import annotations

from typing import Any

import pytest

from .torchcases import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime", minversion="1.25")
pytest.importorskip("onnxscript")


def onnxruntimes(program: Any, *arguments: Any) -> Any:
    """onnxruntime's output, as a tensor."""
    onnx.checker.check_model(program.model_proto, full_check=True)
    runtime = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [value.name for value in runtime.get_inputs()]
    arrays = [argument.numpy() for argument in arguments]
    (output,) = runtime.run(None, dict(zip(names, arrays, strict=True)))
    return torch.from_numpy(output)


def assert_agrees(program: Any, model: Any, *arguments: Any, atol: float = 1e-5) -> None:
    """Compare onnxruntime's output with the model's."""
    with torch.no_grad():
        expected = model(*arguments)
    torch.testing.assert_close(onnxruntimes(program, *arguments), expected, rtol=1e-5, atol=atol)
