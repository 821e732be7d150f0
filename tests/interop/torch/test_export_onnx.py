"""Models exported to ONNX: one DeformConv for each convolution, and onnxruntime's results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.onnxcases import assert_agrees, onnx
from support.torchcases import quiet, torch

from cudeform.interop.torch import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
    deform_conv2d,
    deform_conv2d_backward,
    export_onnx,
    onnx_translations,
    replace_torchvision,
)
from cudeform.interop.torch import onnx as module

pytestmark = quiet
DYNAMIC = torch.export.Dim.DYNAMIC


class ThreeLayers(torch.nn.Module):  # type: ignore[misc]
    """v1 and v2 that predict offsets, and a layer whose offsets are an input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.v1 = DeformConv2dPack(4, 8, 3, padding=1, deform_groups=2)
        self.v2 = ModulatedDeformConv2dPack(
            8, 8, (3, 2), stride=2, padding=1, groups=2, deform_groups=4
        )
        self.plain = DeformConv2d(8, 6, 3, padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2)
        for layer in (self.v1, self.v2):
            torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)

    def forward(self, image: Any, offset: Any) -> Any:
        return self.plain(self.v2(self.v1(image)), offset)


def inputs(batch: int, height: int, width: int) -> tuple[Any, Any]:
    """An image, and offsets of the size that the last layer's output has."""
    return torch.randn(batch, 4, height, width), torch.randn(
        batch, 18, (height - 1) // 2, width // 2
    )


def nodes(program: Any) -> list[Any]:
    onnx.checker.check_model(program.model_proto, full_check=True)
    return [n for n in program.model_proto.graph.node if n.op_type == "DeformConv"]


@pytest.mark.parametrize("exported_before", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_three_layers_are_three_nodes(dynamic: bool, exported_before: bool) -> None:
    model, example = ThreeLayers().eval(), inputs(2, 16, 18)
    shapes = {"dynamic_shapes": ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},) * 2} if dynamic else {}
    if exported_before:
        exported = torch.export.export(model, example, **shapes)
        program = export_onnx(exported, verbose=False)
    else:
        program = export_onnx(model, example, verbose=False, **shapes)
    attributes = [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for node in nodes(program)
    ]
    assert attributes == [
        of_node([3, 3], offset_group=2, pads=[1, 1, 1, 1]),
        of_node([3, 2], offset_group=4, group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        of_node([3, 3], group=2, dilations=[1, 2], pads=[1, 2, 0, 1]),
    ]
    assert_agrees(program, model, *example)
    if dynamic:
        assert_agrees(program, model, *inputs(3, 33, 20))


def of_node(kernel_shape: list[int], **others: Any) -> dict[str, Any]:
    usual = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "offset_group": 1}
    return {"kernel_shape": kernel_shape, **usual, **others}


class Function(torch.nn.Module):  # type: ignore[misc]
    """The function itself, with whatever it is given."""

    def forward(self, input: Any, offset: Any, weight: Any, bias: Any = None, mask: Any = None):
        return deform_conv2d(input, offset, weight, bias, mask=mask)


def operands(dtype: Any = torch.float32) -> list[Any]:
    torch.manual_seed(0)
    shapes = (1, 2, 5, 6), (1, 8, 4, 5), (3, 2, 2, 2), (3,), (1, 4, 4, 5)
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_the_exporter_itself_takes_a_module(with_mask: bool, with_bias: bool) -> None:
    input, offset, weight, bias, mask = operands()
    arguments = input, offset, weight, bias if with_bias else None, mask if with_mask else None
    program = torch.onnx.export(
        Function().eval(), arguments, dynamo=True, opset_version=19, verbose=False
    )
    (node,) = nodes(program)
    assert [bool(name) for name in node.input] == (
        [True] * 3 + [with_bias, with_mask][: 2 if with_mask else int(with_bias)]
    )
    assert_agrees(program, lambda *given: Function()(*arguments), *filter_none(arguments))


def filter_none(arguments: tuple[Any, ...]) -> list[Any]:
    return [argument for argument in arguments if argument is not None]


def test_the_exporter_itself_takes_the_translations() -> None:
    example = tuple(operands())
    program = torch.onnx.export(
        torch.export.export(Function(), example),
        dynamo=True,
        opset_version=19,
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    assert len(nodes(program)) == 1
    assert_agrees(program, Function(), *example)


def test_bfloat16_takes_a_later_opset() -> None:
    example = tuple(operands(torch.bfloat16))
    program = export_onnx(Function().eval(), example, verbose=False)
    assert len(nodes(program)) == 1
    assert program.model_proto.opset_import[0].version == 22
    with pytest.raises(ValueError, match=r"opset_version must be at least 22, got 20"):
        export_onnx(Function().eval(), example, opset_version=20)


def test_a_model_is_written(tmp_path: Path) -> None:
    export_onnx(Function().eval(), tuple(operands()), tmp_path / "model.onnx", verbose=False)
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)


def test_torchvisions_layers_after_replacement() -> None:
    ops = pytest.importorskip("torchvision.ops")
    torch.manual_seed(0)
    model = replace_torchvision(ops.DeformConv2d(2, 3, 2)).eval()
    input, offset, *_, mask = operands()
    program = export_onnx(model, (input, offset, mask), verbose=False)
    assert len(nodes(program)) == 1
    assert_agrees(program, model, input, offset, mask)


def test_an_earlier_opset_is_refused() -> None:
    with pytest.raises(ValueError, match="opset_version must be at least 19, got 18"):
        export_onnx(Function().eval(), tuple(operands()), opset_version=18)


def test_a_gradient_is_refused() -> None:
    class Gradient(torch.nn.Module):  # type: ignore[misc]
        def forward(self, grad: Any, input: Any, offset: Any, weight: Any) -> Any:
            return deform_conv2d_backward(grad, input, offset, weight).input

    example = (torch.ones(1, 3, 4, 5), *operands()[:3])
    with pytest.raises(ValueError, match="deform_conv2d_backward has no ONNX form"):
        export_onnx(Gradient().eval(), example, verbose=False)


def test_dynamic_channels_are_refused() -> None:
    example = tuple(operands()[:3])
    shapes = {1: DYNAMIC}, None, {1: DYNAMIC}, None, None
    with pytest.raises(ValueError, match="only batch and image sizes can be dynamic"):
        export_onnx(Function().eval(), (*example, None, None), dynamic_shapes=shapes, verbose=False)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(
        ImportError, match=r"not installed: onnxscript; pip install 'cudeform\[onnx"
    ):
        export_onnx(Function().eval(), tuple(operands()))


# What a process that loads a saved model must import: docs/production/deploying.rst.
LOADERS = {
    "export": ("torch.export.load(PATH).module()", "We ran into an error when deserializing"),
    "trace": ("torch.jit.load(PATH)", "Unknown builtin op: cudeform::deform_conv2d"),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("imports", [False, True])
def test_a_saved_model_in_a_fresh_process(kind: str, imports: bool, tmp_path: Path) -> None:
    path, example = tmp_path / "model", tuple(operands()[:3])
    with torch.no_grad():
        torch.save((example, Function()(*example)), tmp_path / "expected")
    if kind == "export":
        torch.export.save(torch.export.export(Function(), example), path.with_suffix(".pt2"))
        path = path.with_suffix(".pt2")
    else:
        torch.jit.trace(Function(), example).save(path)
    load, refusal = LOADERS[kind]
    lines = [
        "import torch",
        "import cudeform.interop.torch" if imports else "",
        f"example, expected = torch.load({str(tmp_path / 'expected')!r})",
        f"model = {load.replace('PATH', repr(str(path)))}",
        "torch.testing.assert_close(model(*example), expected)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode == 0) == imports, done.stderr
    assert imports or refusal in done.stderr
