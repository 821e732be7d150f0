"""Deformable attention exported to ONNX: standard operators, and onnxruntime's results."""

from __future__ import annotations

from typing import Any

import pytest
from support.onnxcases import assert_agrees, onnx
from support.torchcases import quiet, torch

import cudeform
from cudeform.interop.torch import MultiScaleDeformableAttention, export_onnx, onnx_translations
from cudeform.interop.torch.dispatch import FUNCTIONS

pytestmark = quiet
DYNAMIC = torch.export.Dim.DYNAMIC
LEVELS, PIXELS = [(5, 7), (3, 4), (1, 1)], 48


class Function(torch.nn.Module):  # type: ignore[misc]
    """The function, computed in a dtype; inputs and output are of another one."""

    def __init__(self, points: Any = None, dtype: Any = torch.float32) -> None:
        super().__init__()
        self.points, self.dtype = points, dtype

    def forward(self, value: Any, locations: Any, weights: Any) -> Any:
        value, locations, weights = (each.to(self.dtype) for each in (value, locations, weights))
        output = cudeform.ms_deform_attn(value, LEVELS, locations, weights, points=self.points)
        return output.float() if output.dtype is torch.bfloat16 else output


class Layer(torch.nn.Module):  # type: ignore[misc]
    """The layer, with the sizes of its levels."""

    def __init__(self, spatial_shapes: Any = LEVELS, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = MultiScaleDeformableAttention(
            16, num_heads=4, num_levels=3, num_points=2, batch_first=batch_first
        )
        torch.nn.init.normal_(self.layer.sampling_offsets.weight, std=0.3)
        torch.nn.init.normal_(self.layer.attention_weights.weight, std=0.3)
        self.spatial_shapes = spatial_shapes

    def forward(self, query: Any, value: Any, points: Any) -> Any:
        return self.layer(
            query, value=value, reference_points=points, spatial_shapes=self.spatial_shapes
        )


def operands(batch: int, queries: int, *taps: int) -> tuple[Any, Any, Any]:
    """Value, locations, some of them outside, and weights of two heads."""
    torch.manual_seed(queries)
    return (
        torch.randn(batch, PIXELS, 2, 4),
        torch.rand(batch, queries, 2, *taps, 2) * 1.6 - 0.3,
        torch.rand(batch, queries, 2, *taps),
    )


def of_layer(batch: int, queries: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(queries)
    return (
        torch.randn(batch, queries, 16),
        torch.randn(batch, PIXELS, 16),
        torch.rand(batch, queries, 3, 2),
    )


def modes(program: Any) -> list[bytes]:
    """How each level is interpolated."""
    samplers = [node for node in program.model_proto.graph.node if node.op_type == "GridSample"]
    return [onnx.helper.get_node_attr_value(node, "mode") for node in samplers]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("points", [None, (1, 4, 2)])
def test_the_function(points: Any, dynamic: bool) -> None:
    model = Function(points).eval()
    taps = (3, 2) if points is None else (sum(points),)
    shapes = {0: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC}
    settings = {"dynamic_shapes": shapes} if dynamic else {}
    example = operands(2, 6, *taps)
    program = export_onnx(model, example, verbose=False, **settings)
    assert modes(program) == [b"linear"] * 3
    assert {node.domain for node in program.model_proto.graph.node} == {""}
    assert_agrees(program, model, *example)
    if dynamic:
        assert_agrees(program, model, *operands(3, 9, *taps))


@pytest.mark.parametrize(("batch_first", "dynamic"), [(True, False), (False, True)])
def test_the_layer(batch_first: bool, dynamic: bool) -> None:
    def ordered(*arguments: Any) -> tuple[Any, ...]:
        query, value, points = arguments
        if not batch_first:
            query, value = (each.transpose(0, 1).contiguous() for each in (query, value))
        return query, value, points

    model, example = Layer(batch_first=batch_first).eval(), ordered(*of_layer(2, 6))
    both = {0: DYNAMIC, 1: DYNAMIC}
    shapes = both, {0 if batch_first else 1: DYNAMIC}, both
    settings = {"dynamic_shapes": shapes} if dynamic else {}
    program = export_onnx(model, example, verbose=False, **settings)
    assert modes(program) == [b"linear"] * 3
    assert_agrees(program, model, *example)
    if dynamic:
        assert_agrees(program, model, *ordered(*of_layer(3, 9)))


@pytest.mark.parametrize(
    ("dtype", "atol"),
    [(torch.float64, 1e-14), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)],
)
def test_other_dtypes(dtype: Any, atol: float) -> None:
    model, example = Function(dtype=dtype).eval(), operands(2, 5, 3, 2)
    assert_agrees(export_onnx(model, example, verbose=False), model, *example, atol=atol)


def test_weights_in_float32_beside_a_value_in_half() -> None:
    class Mixed(torch.nn.Module):  # type: ignore[misc]
        def forward(self, value: Any, locations: Any, weights: Any) -> Any:
            return cudeform.ms_deform_attn(value.half(), LEVELS, locations, weights)

    model, example = Mixed().eval(), operands(2, 5, 3, 2)
    assert_agrees(export_onnx(model, example, verbose=False), model, *example, atol=1e-3)


def test_locations_far_outside() -> None:
    model, (value, locations, weights) = Function().eval(), operands(1, 6, 3, 2)
    for query, number in enumerate((float("inf"), -float("inf"), 1e30, -0.5, 1.5)):
        locations[0, query, :, :, 0, query % 2] = number
    example = value, locations, weights
    assert_agrees(export_onnx(model, example, verbose=False), model, *example)


@pytest.mark.parametrize("exported_before", [False, True])
def test_the_exporter_itself_takes_the_translations(exported_before: bool) -> None:
    model, example = Function().eval(), operands(2, 6, 3, 2)
    program = torch.onnx.export(
        torch.export.export(model, example) if exported_before else model,
        example,
        dynamo=True,
        opset_version=18,
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    assert modes(program) == [b"bilinear"] * 3
    assert_agrees(program, model, *example)


def test_dynamic_heads_are_refused() -> None:
    shapes = ({2: DYNAMIC},) * 3
    with pytest.raises(ValueError, match="only the batch and the number of queries can be dynamic"):
        export_onnx(
            Function().eval(),
            operands(2, 6, 3, 2),
            dynamic_shapes=shapes,
            verbose=False,
        )


def test_sizes_in_a_tensor_are_refused() -> None:
    model = Layer(torch.tensor(LEVELS)).eval()
    with pytest.raises(torch.onnx.OnnxExporterError, match="spatial_shapes must have values that"):
        export_onnx(model, of_layer(2, 6), verbose=False)


def test_all_other_operators_are_refused() -> None:
    table = onnx_translations()
    for name, functions in FUNCTIONS.items():
        for op in functions:
            if op.name not in ("deform_conv2d", "ms_deform_attn"):
                with pytest.raises(ValueError, match=f"{op.name} has no ONNX form"):
                    table[op.overload]()
        assert set(table) >= {op.overload for op in functions}, name
