"""The layer of deformable attention: mmcv's parameters, initialisation, arguments and results."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
from support.torchcases import quiet, torch

import cudeform
from cudeform.interop.torch import MultiScaleDeformableAttention

pytestmark = quiet

SHAPES = [(6, 5), (3, 4)]
PIXELS = 6 * 5 + 3 * 4
HEADS, LEVELS, POINTS, CHANNELS, QUERIES = 3, 2, 4, 12, 7
# Names and shapes in the state dicts of mmcv, Deformable DETR and transformers.
STATE = {
    "sampling_offsets.weight": (HEADS * LEVELS * POINTS * 2, CHANNELS),
    "sampling_offsets.bias": (HEADS * LEVELS * POINTS * 2,),
    "attention_weights.weight": (HEADS * LEVELS * POINTS, CHANNELS),
    "attention_weights.bias": (HEADS * LEVELS * POINTS,),
    "value_proj.weight": (CHANNELS, CHANNELS),
    "value_proj.bias": (CHANNELS,),
    "output_proj.weight": (CHANNELS, CHANNELS),
    "output_proj.bias": (CHANNELS,),
}


def random(*shape: int) -> Any:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def layer_of(**more: Any) -> Any:
    """A layer with random parameters."""
    sizes = {"num_heads": HEADS, "num_levels": LEVELS, "num_points": POINTS, "dropout": 0.0}
    layer = MultiScaleDeformableAttention(CHANNELS, **{**sizes, **more}).double()
    layer.load_state_dict({n: random(*t.shape) / 3 for n, t in layer.state_dict().items()})
    return layer


def inputs(numbers: int = 2) -> dict[str, Any]:
    return {
        "query": random(2, QUERIES, CHANNELS),
        "value": random(2, PIXELS, CHANNELS),
        "reference_points": random(2, QUERIES, LEVELS, numbers).sigmoid(),
        "spatial_shapes": SHAPES,
    }


def composed(layer: Any, given: dict[str, Any], padded: Any = None) -> Any:
    """The layer without its dropout, with its locations worked out query by query."""
    query, points = given["query"], given["reference_points"]
    value = layer.value_proj(given["value"])
    if padded is not None:
        value = value * ~padded[..., None]
    offsets = layer.sampling_offsets(query).view(2, QUERIES, HEADS, LEVELS, POINTS, 2)
    weights = layer.attention_weights(query).view(2, QUERIES, HEADS, LEVELS * POINTS)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(SHAPES):
        for axis, pixels in enumerate((width, height)):
            at, offset = points[..., level, axis], offsets[..., level, :, axis]
            if points.shape[-1] == 2:
                displacement = offset / pixels
            else:
                extent = points[..., level, 2 + axis] / (2 * POINTS)
                displacement = offset * extent[..., None, None]
            locations[..., level, :, axis] = at[..., None, None] + displacement
    softmax = weights.softmax(-1).view(2, QUERIES, HEADS, LEVELS, POINTS)
    heads = value.view(2, PIXELS, HEADS, -1)
    output = cudeform.ms_deform_attn(heads, SHAPES, locations, softmax)
    return layer.output_proj(output) + query


def test_names_and_shapes_of_the_parameters_are_everyones() -> None:
    state = layer_of().state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == STATE


@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_the_layer_composed(numbers: int, masked: bool) -> None:
    layer, given = layer_of(batch_first=True), inputs(numbers)
    padded = random(2, PIXELS) > 0.5 if masked else None
    output = layer(**given, key_padding_mask=padded)
    assert torch.allclose(output, composed(layer, given, padded))
    output.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_batch_second_is_the_default_as_in_mmcv() -> None:
    given, first, second = inputs(), layer_of(batch_first=True), layer_of()
    wanted = first(**given)
    swapped = {name: given[name].transpose(0, 1) for name in ("query", "value")}
    assert torch.allclose(second(**{**given, **swapped}), wanted.transpose(0, 1))


def test_identity_position_and_value_default_as_in_mmcv() -> None:
    layer, given = layer_of(batch_first=True), inputs()
    shift, identity = random(1, 1, CHANNELS), random(2, QUERIES, CHANNELS)
    shifted = {**given, "query": given["query"] + shift}
    plain = layer(**shifted) - shifted["query"]
    assert torch.allclose(layer(**given, query_pos=shift), plain + given["query"])
    assert torch.allclose(layer(**given, query_pos=shift, identity=identity), plain + identity)
    of_itself = {
        "query": given["value"],
        "reference_points": random(2, PIXELS, LEVELS, 2).sigmoid(),
        "spatial_shapes": SHAPES,
    }
    assert torch.equal(layer(**of_itself), layer(**of_itself, value=given["value"]))


def test_spatial_shapes_as_a_tensor() -> None:
    layer, given = layer_of(batch_first=True), inputs()
    wanted = layer(**given)
    starts = torch.tensor([0, 30])
    given["spatial_shapes"] = torch.tensor(SHAPES)
    assert torch.equal(layer(**given, level_start_index=starts, key=None, anything=1), wanted)


def test_dropout_is_before_the_identity() -> None:
    layer, given = layer_of(batch_first=True, dropout=1.0), inputs()
    assert torch.equal(layer(**given), given["query"])
    assert not torch.equal(layer.eval()(**given), given["query"])


def test_a_new_layer_looks_along_rays_with_equal_weights() -> None:
    layer = MultiScaleDeformableAttention(16, num_heads=8, num_levels=2, num_points=3)
    bias = layer.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    for head in range(8):
        angle = 2 * math.pi * head / 8
        x, y = math.cos(angle), math.sin(angle)
        longer = max(abs(x), abs(y))
        for point in range(3):
            wanted = torch.tensor([x, y]) / longer * (point + 1)
            assert torch.allclose(bias[head, :, point], wanted.expand(2, 2), atol=1e-6)
    for zero in (layer.sampling_offsets.weight, *layer.attention_weights.parameters()):
        assert not zero.any()
    limit = math.sqrt(6 / 32)  # of Xavier's uniform distribution, for 16 inputs and 16 outputs
    for projection in (layer.value_proj, layer.output_proj):
        assert not projection.bias.any()
        assert limit / 2 < float(projection.weight.detach().abs().max()) <= limit


def test_values_may_have_other_channels_than_queries() -> None:
    layer = layer_of(batch_first=True, value_proj_ratio=0.5)
    assert layer.value_proj.weight.shape == (CHANNELS // 2, CHANNELS)
    assert layer(**inputs()).shape == (2, QUERIES, CHANNELS)


@pytest.mark.parametrize("rule", ["zero", "one_sided", None])
def test_a_layer_has_the_boundary_grad_that_it_was_given(rule: Any) -> None:
    more = {} if rule == "zero" else {"boundary_grad": rule}  # the default is that of CUDA
    layer = layer_of(batch_first=True, **more)
    layer.sampling_offsets.weight.data.zero_()
    layer.sampling_offsets.bias.data.zero_()
    given, slopes = inputs(), []
    given["reference_points"] = torch.zeros(2, QUERIES, LEVELS, 2, dtype=torch.float64)
    given["reference_points"][..., 1, :] = torch.tensor([-0.5 / 4, 0.5])  # x = -1 on level 1
    for option in ("zero", "one_sided"):
        with cudeform.options(boundary_grad=option):
            output = layer(**given).sum()
        slopes.append(torch.autograd.grad(output, layer.sampling_offsets.bias)[0])
    one_sided, zero = slopes[1], slopes[0]
    assert torch.equal(one_sided, zero) == (rule is not None)
    on_the_edge = zero.view(HEADS, LEVELS, POINTS, 2)[:, 1, :, 0]
    assert bool(on_the_edge.any()) == (rule == "one_sided")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_beside_float32_points(dtype: Any) -> None:
    layer, given = layer_of(batch_first=True), inputs()
    wanted = layer(**given)
    low = {name: given[name].to(dtype) for name in ("query", "value")}
    points = given["reference_points"].float()
    output = layer.to(dtype)(**{**given, **low, "reference_points": points})
    assert output.dtype == dtype
    assert torch.allclose(output.double(), wanted, atol=0.3, rtol=0.05)


def test_autocast_keeps_locations_in_float32() -> None:
    layer, given = layer_of(batch_first=True).float(), inputs()
    given = {n: t.float() if isinstance(t, torch.Tensor) else t for n, t in given.items()}
    wanted = layer(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(**given)
    assert torch.allclose(output.float(), wanted, atol=0.3, rtol=0.05)
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads = 5 must divide embed_dims, got 12"):
        MultiScaleDeformableAttention(12, num_heads=5)
    with pytest.raises(ValueError, match=r"must divide embed_dims \* value_proj_ratio, got 6"):
        MultiScaleDeformableAttention(12, num_heads=4, value_proj_ratio=0.5)
    with pytest.raises(ValueError, match="init_cfg must be None"):
        MultiScaleDeformableAttention(init_cfg={"type": "Xavier"})
    layer, given = layer_of(batch_first=True), inputs()
    with pytest.raises(TypeError, match="reference_points and spatial_shapes must be given"):
        layer(given["query"])
    with pytest.raises(ValueError, match="must end in 2 numbers"):
        layer(**{**given, "reference_points": given["reference_points"][..., :1]})


def test_a_layer_can_be_copied_and_pickled() -> None:
    layer, given = layer_of(batch_first=True), inputs()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.value_proj is not layer.value_proj
        assert torch.equal(other(**given), layer(**given))
        assert repr(other) == repr(layer)


def test_a_compiled_layer_without_graph_breaks() -> None:
    layer, given = layer_of(batch_first=True), inputs()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(**given), layer(**given))


def test_a_compiled_layer_with_sizes_that_change() -> None:
    layer = MultiScaleDeformableAttention(16, num_heads=4, num_levels=1, batch_first=True).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
    for height, width in ((4, 4), (6, 3)):
        given = {
            "query": torch.randn(2, 5, 16),
            "value": torch.randn(2, height * width, 16),
            "reference_points": torch.rand(2, 5, 1, 2),
            "spatial_shapes": ((height, width),),
        }
        torch.testing.assert_close(compiled(**given), layer(**given))
