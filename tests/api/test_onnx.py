"""The results of the ONNX operator DeformConv: its own test cases, and onnxruntime's answers."""

from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, random_cases
from hypothesis import given

import cudeform

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime", minversion="1.25")

INPUTS = {"X": "input", "W": "weight", "offset": "offset", "B": "bias", "mask": "mask"}


def node_cases() -> list[Any]:
    """Name, node, inputs and outputs of the cases that the onnx package tests backends with."""
    from onnx.backend.test.case.node import deformconv

    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deformconv, "expect", lambda node, **case: found.append((node, case)))
        for name, export in vars(deformconv.DeformConv).items():
            if name.startswith("export"):
                export()
    return [pytest.param(node, case, id=case["name"]) for node, case in found]


def test_all_node_cases_are_found() -> None:
    assert len(node_cases()) >= 4


@pytest.mark.parametrize(("node", "case"), node_cases())
def test_node_case(node: Any, case: dict[str, Any]) -> None:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    # Inputs are identified by their position: each case has its own name for the offset.
    arrays = dict(zip(INPUTS.values(), case["inputs"], strict=False))
    top, left, bottom, right = attributes.pop("pads")
    # A node states these sizes; cudeform infers them.
    kernel_h, kernel_w = attributes.pop("kernel_shape")
    offset_channels = 2 * attributes.pop("offset_group", 1) * kernel_h * kernel_w
    assert arrays["weight"].shape[2:] == (kernel_h, kernel_w)
    assert arrays["offset"].shape[1] == offset_channels
    assert not attributes
    output = cudeform.deform_conv2d(**arrays, padding=((top, bottom), (left, right)))
    np.testing.assert_allclose(output, case["outputs"][0], rtol=1e-6)


def onnxruntimes(case: Case) -> Any:
    """The output of a model of one DeformConv node."""
    present = {n: getattr(case, a) for n, a in INPUTS.items() if getattr(case, a) is not None}
    (top, bottom), (left, right) = case.padding
    taps = case.weight.shape[2] * case.weight.shape[3]
    node = onnx.helper.make_node(
        "DeformConv",
        [name if name in present else "" for name in INPUTS],
        ["Y"],
        strides=case.stride,
        pads=(top, left, bottom, right),
        dilations=case.dilation,
        group=case.input.shape[1] // case.weight.shape[1],
        offset_group=case.offset.shape[1] // (2 * taps),
    )
    kind = onnx.helper.np_dtype_to_tensor_dtype(case.input.dtype)
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [onnx.helper.make_tensor_value_info(n, kind, a.shape) for n, a in present.items()],
        [onnx.helper.make_tensor_value_info("Y", kind, case.grad_output.shape)],
    )
    opset = [onnx.helper.make_opsetid("", 22)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    (output,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["Y"], present)
    return output


def assert_onnxruntime_agrees(case: Case) -> None:
    tolerance = {"float32": 1e-4, "float64": 1e-11}[case.input.dtype.name]
    output = cudeform.deform_conv2d(**case.arguments)
    np.testing.assert_allclose(output, onnxruntimes(case), rtol=tolerance, atol=tolerance)


# Not among them: NaN, which onnxruntime takes for out of range, and sizes that it refuses.
SUITED = [case for case in CASES if not np.isnan(case.offset).any() and case.weight.size]


@pytest.mark.promise("right")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", SUITED, ids=lambda case: case.name)
def test_named_cases(case: Case, dtype: str) -> None:
    assert_onnxruntime_agrees(case.cast(dtype))


@given(random_cases(offsets=("zero", "small", "normal", "large", "whole", "half", "far", "inf")))
def test_random_cases(case: Case) -> None:
    assert_onnxruntime_agrees(case.cast("float32"))
