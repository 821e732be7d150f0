"""The layers DCNv3 and DCNv4: parameters and results of InternImage's and DCNv4's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from support.torchcases import quiet, torch

import cudeform
from cudeform.interop.torch import DCNv3, DCNv4

pytestmark = quiet

CHANNELS, GROUPS = 12, 3
functional = torch.nn.functional

# Names and shapes in the state dicts of the original layers, for a kernel of 3.
V3 = {
    "dw_conv.0.weight": (CHANNELS, 1, 5, 5),
    "dw_conv.0.bias": (CHANNELS,),
    "dw_conv.1.1.weight": (CHANNELS,),
    "dw_conv.1.1.bias": (CHANNELS,),
    "offset.weight": (GROUPS * 9 * 2, CHANNELS),
    "offset.bias": (GROUPS * 9 * 2,),
    "mask.weight": (GROUPS * 9, CHANNELS),
    "mask.bias": (GROUPS * 9,),
    "input_proj.weight": (CHANNELS, CHANNELS),
    "input_proj.bias": (CHANNELS,),
    "output_proj.weight": (CHANNELS, CHANNELS),
    "output_proj.bias": (CHANNELS,),
}
V4 = {
    "offset_mask_dw.weight": (CHANNELS, 1, 5, 5),
    "offset_mask_dw.bias": (CHANNELS,),
    "offset_mask.weight": (88, CHANNELS),  # 3 * 27 = 81, padded to a multiple of 8
    "offset_mask.bias": (88,),
    "value_proj.weight": (CHANNELS, CHANNELS),
    "value_proj.bias": (CHANNELS,),
    "output_proj.weight": (CHANNELS, CHANNELS),
    "output_proj.bias": (CHANNELS,),
}
SCALE = {
    "center_feature_scale_proj_weight": (GROUPS, CHANNELS),
    "center_feature_scale_proj_bias": (GROUPS,),
}
LAYERS = [(DCNv3, V3), (DCNv4, V4)]


def random(*shape: int) -> Any:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def layer_of(kind: Any, **more: Any) -> Any:
    """A layer with random parameters."""
    layer = kind(CHANNELS, group=GROUPS, **{"dw_kernel_size": 5, **more}).double()
    state = {n: random(*t.shape) / 3 for n, t in layer.state_dict().items() if t.ndim}
    state |= {n: t.abs() for n, t in state.items() if n.endswith("running_var")}
    layer.load_state_dict(state, strict=False)
    return layer.eval()


def mixed(layer: Any, sampled: Any, plain: Any, query: Any) -> Any:
    """The share of the undisplaced input, group by group."""
    weight, bias = (
        layer.center_feature_scale_proj_weight,
        layer.center_feature_scale_proj_bias,
    )
    output = torch.empty_like(sampled)
    size = CHANNELS // GROUPS
    for group in range(GROUPS):
        own = slice(group * size, (group + 1) * size)
        share = torch.sigmoid(query @ weight[group] + bias[group])[..., None]
        output[..., own] = sampled[..., own] * (1 - share) + plain[..., own] * share
    return output


def composed_v3(layer: Any, image: Any, norm: str, activation: Any, **grid: Any) -> Any:
    convolution, layers, _ = layer.dw_conv
    branch = functional.conv2d(
        image.permute(0, 3, 1, 2), convolution.weight, convolution.bias, padding=2, groups=CHANNELS
    )
    if norm == "BN":
        branch = layers[0](branch)
    branch = branch.permute(0, 2, 3, 1)
    if norm == "LN":
        affine = layers[1].weight, layers[1].bias
        branch = functional.layer_norm(branch, (CHANNELS,), *affine, eps=1e-6)
    branch = activation(branch)
    taps = layer.mask.out_features // GROUPS
    mask = layer.mask(branch).unflatten(-1, (GROUPS, taps)).softmax(-1).flatten(-2)
    plain = layer.input_proj(image)
    sampled = cudeform.dcnv3(plain, layer.offset(branch), mask, **grid)
    if layer.center_feature_scale:
        sampled = mixed(layer, sampled, plain, branch)
    return layer.output_proj(sampled)


@pytest.mark.parametrize(("kind", "state"), LAYERS)
@pytest.mark.parametrize("scaled", [False, True])
def test_names_and_shapes_of_the_parameters(kind: Any, state: Any, scaled: bool) -> None:
    layer = layer_of(kind, center_feature_scale=scaled)
    wanted = {**state, **(SCALE if scaled else {})}
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == wanted


def test_names_of_a_batch_norm() -> None:
    names = layer_of(DCNv3, norm_layer="BN").state_dict()
    assert "dw_conv.1.0.running_mean" in names
    assert "dw_conv.1.1.weight" not in names


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("norm", "name", "activation"),
    [
        ("LN", "GELU", functional.gelu),
        ("BN", "ReLU", functional.relu),
        ("LN", "SiLU", functional.silu),
    ],
)
def test_dcnv3_composed(scaled: bool, norm: str, name: str, activation: Any) -> None:
    more = {"norm_layer": norm, "act_layer": name, "center_feature_scale": scaled}
    layer = layer_of(DCNv3, offset_scale=1.5, remove_center=True, **more)
    image = random(2, 6, 5, CHANNELS)
    grid = {"kernel_size": 3, "padding": 1, "offset_scale": 1.5, "remove_center": True}
    output = layer(image)
    assert torch.allclose(output, composed_v3(layer, image, norm, activation, **grid))
    output.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize("depthwise", [None, 5])
def test_dcnv4_composed(scaled: bool, pointwise: bool, depthwise: int | None) -> None:
    more = {"center_feature_scale": scaled, "without_pointwise": not pointwise}
    grid = {"kernel_size": 3, "dilation": 2, "offset_scale": 0.7}
    layer = layer_of(DCNv4, dw_kernel_size=depthwise, pad=2, **grid, **more)
    pixels = random(2, 6 * 5, CHANNELS)
    image = pixels.view(2, 6, 5, CHANNELS)
    branch = image
    if depthwise:
        branch = layer.offset_mask_dw(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    plain = layer.value_proj(image) if pointwise else image
    rows = layer.offset_mask(branch)
    wanted = cudeform.dcnv4(plain, rows, groups=GROUPS, padding=2, **grid)
    if scaled:
        wanted = mixed(layer, wanted, plain, wanted)
    wanted = layer.output_proj(wanted) if pointwise else wanted
    output = layer(pixels, shape=(6, 5))
    assert torch.allclose(output, wanted.reshape(2, 30, CHANNELS))
    output.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_dcnv4_takes_the_pixels_for_a_square() -> None:
    layer, pixels = layer_of(DCNv4), random(2, 36, CHANNELS)
    assert torch.equal(layer(pixels), layer(pixels, shape=(6, 6)))
    with pytest.raises(ValueError, match=r"H\*W = 5\*5 for a square, got \(2, 30, 12\)"):
        layer(random(2, 30, CHANNELS))
    with pytest.raises(ValueError, match=r"H\*W = 5\*7 for shape"):
        layer(pixels, shape=(5, 7))


def test_new_layers() -> None:
    image = random(1, 6, 5, CHANNELS).float()
    third, fourth = DCNv3(CHANNELS, group=GROUPS), DCNv4(CHANNELS, group=GROUPS)
    zeros = [*third.offset.parameters(), *third.mask.parameters()]
    zeros += [third.input_proj.bias, third.output_proj.bias, *fourth.offset_mask.parameters()]
    assert not any(each.any() for each in zeros)
    # Equal masks over an undisplaced grid: the mean of 3x3 pixels.
    third.output_proj.weight.data.copy_(torch.eye(CHANNELS))
    plain = third.input_proj(image).permute(0, 3, 1, 2)
    mean = functional.avg_pool2d(plain, 3, 1, 1).permute(0, 2, 3, 1)
    assert torch.allclose(third(image), mean, atol=1e-5)
    assert not fourth(image.reshape(1, 30, CHANNELS), shape=(6, 5)).any()


@pytest.mark.parametrize(("kind", "state"), LAYERS)
def test_the_default_edge_rule_is_that_of_cuda(kind: Any, state: Any) -> None:
    assert kind(CHANNELS, group=GROUPS).boundary_grad == "zero"
    slopes = []
    for rule in ("zero", "one_sided"):
        layer = layer_of(kind, boundary_grad=rule)
        predicting = layer.offset if kind is DCNv3 else layer.offset_mask
        predicting.weight.data.zero_()  # whole coordinates, those of padding -1
        predicting.bias.data.copy_(torch.zeros_like(predicting.bias))
        if kind is DCNv4:
            predicting.bias.data[18:27] = 1.0  # masks of the first group
        image = random(1, 4, 4, CHANNELS)
        output = layer(image if kind is DCNv3 else image.flatten(1, 2))
        slopes.append(torch.autograd.grad(output.sum(), predicting.bias)[0])
    assert not torch.equal(*slopes)


@pytest.mark.parametrize("kind", [DCNv3, DCNv4])
def test_impossible_arguments_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="group = 5 must divide channels, got 12"):
        kind(CHANNELS, group=5)
    for wrong in ({"stride": 2}, {"pad": 0}, {"kernel_size": 5}):
        with pytest.raises(ValueError, match=r"stride must be 1 and 2\*pad = dilation"):
            kind(CHANNELS, group=GROUPS, **wrong)
    with pytest.raises(ValueError, match="odd sizes"):
        kind(CHANNELS, 2, group=GROUPS, pad=1, dilation=2, remove_center=True)


def test_unknown_layers_of_the_branch_are_refused() -> None:
    with pytest.raises(ValueError, match="act_layer must be one of"):
        DCNv3(CHANNELS, group=GROUPS, act_layer="Tanh")
    with pytest.raises(ValueError, match="norm_layer must be one of"):
        DCNv3(CHANNELS, group=GROUPS, norm_layer="GN")


@pytest.mark.parametrize("kind", [DCNv3, DCNv4])
def test_layers_can_be_copied_and_pickled(kind: Any) -> None:
    layer = layer_of(kind, center_feature_scale=True)
    image = random(2, 6, 6, CHANNELS)
    image = image if kind is DCNv3 else image.flatten(1, 2)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(image), layer(image))
        assert repr(other) == repr(layer)


@pytest.mark.parametrize("kind", [DCNv3, DCNv4])
def test_autocast(kind: Any) -> None:
    layer = layer_of(kind).float()
    image = random(2, 6, 6, CHANNELS).float()
    image = image if kind is DCNv3 else image.flatten(1, 2)
    wanted = layer(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(image)
    assert torch.allclose(output.float(), wanted, atol=0.3, rtol=0.1)


@pytest.mark.parametrize("kind", [DCNv3, DCNv4])
def test_a_layer_can_be_compiled_for_any_batch(kind: Any) -> None:
    torch._dynamo.reset()
    layer = kind(CHANNELS, group=GROUPS, offset_scale=1.5)
    compiled = torch.compile(layer, backend="eager", fullgraph=True, dynamic=True)
    for batch in (2, 3):
        image = torch.randn(batch, 4, 5, CHANNELS)
        arguments = (image,) if kind is DCNv3 else (image.flatten(1, 2), (4, 5))
        assert torch.allclose(compiled(*arguments), layer(*arguments), atol=1e-6)


def test_dcnv3_refuses_an_image_without_a_batch_axis() -> None:
    with pytest.raises(ValueError, match=r"input must be \(N, H, W, C\)"):
        DCNv3(CHANNELS, group=GROUPS)(torch.randn(4, 4, CHANNELS))
