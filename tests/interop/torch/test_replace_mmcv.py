"""``replace_mmcv``, on classes that stand for mmcv's: their names, attributes and calls."""

from __future__ import annotations

import copy
import sys
from types import ModuleType
from typing import Any

import pytest
from support.torchcases import quiet, torch

import cudeform
from cudeform.interop import torch as cudeform_torch

pytestmark = quiet

nn = torch.nn
SHAPES = [(4, 3), (2, 2)]


class Convolution(nn.Module):
    """Attributes that mmcv's convolutions have in common; padding 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = (kernel_size, kernel_size)
        self.stride, self.padding, self.dilation = (1, 1), (1, 1), (1, 1)
        self.groups, self.deform_groups, self.im2col_step = 1, 1, 32
        self.transposed, self.output_padding = False, (0,)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *self.kernel_size))


class DeformConv2d(Convolution):
    """mmcv's DCNv1, which has no bias."""

    def forward(self, x: Any, offset: Any) -> Any:
        return cudeform.deform_conv2d(x, offset, self.weight, padding=1)


class DeformConv2dPack(DeformConv2d):
    """mmcv's DCNv1 with its branch."""

    _version = 2

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.conv_offset = nn.Conv2d(self.in_channels, 18, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return super().forward(x, self.conv_offset(x))


class ModulatedDeformConv2d(Convolution):
    """mmcv's DCNv2."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.bias = nn.Parameter(torch.randn(self.out_channels))

    def forward(self, x: Any, offset: Any, mask: Any) -> Any:
        return cudeform.deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask)


class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """mmcv's DCNv2 with its branch."""

    _version = 2

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.conv_offset = nn.Conv2d(self.in_channels, 27, 3, padding=1)

    def forward(self, x: Any) -> Any:
        y, x_, mask = self.conv_offset(x).chunk(3, dim=1)
        return super().forward(x, torch.cat((y, x_), 1), mask.sigmoid())


class MultiScaleDeformableAttention(nn.Module):
    """mmcv's attention, by its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.init_cfg, self.norm_cfg, self.im2col_step = None, None, 64
        self.embed_dims, self.num_heads, self.num_levels, self.num_points = 12, 3, 2, 4
        self.batch_first, self.dropout = False, nn.Dropout(0.0)
        self.sampling_offsets = nn.Linear(12, 48)
        self.attention_weights = nn.Linear(12, 24)
        self.value_proj, self.output_proj = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, query: Any, value: Any, reference_points: Any, spatial_shapes: Any) -> Any:
        sizes = {"num_heads": 3, "num_levels": 2, "dropout": 0.0}
        ours = cudeform_torch.MultiScaleDeformableAttention(12, **sizes).to(query.dtype)
        ours.load_state_dict(self.state_dict())
        where = {"reference_points": reference_points, "spatial_shapes": spatial_shapes}
        return ours(query, value=value, **where)


CLASSES = {
    DeformConv2d: cudeform_torch.DeformConv2d,
    DeformConv2dPack: cudeform_torch.DeformConv2dPack,
    ModulatedDeformConv2d: cudeform_torch.DeformConv2d,
    ModulatedDeformConv2dPack: cudeform_torch.ModulatedDeformConv2dPack,
    MultiScaleDeformableAttention: cudeform_torch.MultiScaleDeformableAttention,
}


@pytest.fixture(autouse=True)
def mmcv(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = ModuleType("mmcv.ops")
    for each in CLASSES:
        setattr(ops, each.__name__, each)
    monkeypatch.setitem(sys.modules, "mmcv.ops", ops)


def random(*shape: int) -> Any:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def layer_of(kind: Any) -> Any:
    if kind is MultiScaleDeformableAttention:
        return kind().double()
    return kind(6, 4, 3).double()


def arguments(kind: Any) -> tuple[list[Any], dict[str, Any]]:
    """A call of a layer: what is passed by position and by name."""
    if kind is MultiScaleDeformableAttention:
        where = {"reference_points": random(2, 5, 2, 2).sigmoid(), "spatial_shapes": SHAPES}
        return [random(5, 2, 12)], {"value": random(16, 2, 12), **where}
    count = {DeformConv2d: 2, ModulatedDeformConv2d: 3}.get(kind, 1)
    return [random(2, 6, 7, 9), random(2, 18, 7, 9), random(2, 9, 7, 9).sigmoid()][:count], {}


def gradients(layer: Any, output: Any) -> Any:
    parameters = list(layer.parameters())
    return torch.autograd.grad(output.sin().sum(), parameters)


@pytest.mark.parametrize("kind", list(CLASSES), ids=lambda kind: kind.__name__)
def test_layers_are_replaced_in_place(kind: Any) -> None:
    theirs, (given, named) = layer_of(kind), arguments(kind)
    wanted = theirs(*given, **named)
    parameters, names = list(theirs.parameters()), list(theirs.state_dict())
    model = nn.ModuleDict({"one": theirs, "again": theirs, "other": nn.Linear(2, 2)})
    assert cudeform_torch.replace_mmcv(model) is model
    layer = model["one"]
    assert layer is model["again"] is theirs
    assert type(layer) is CLASSES[kind]
    assert layer.boundary_grad == "zero"
    assert all(a is b for a, b in zip(layer.parameters(), parameters, strict=True))
    assert list(layer.state_dict()) == names
    assert torch.allclose(layer(*given, **named), wanted)
    assert repr(layer)
    assert torch.allclose(copy.deepcopy(layer)(*given, **named), wanted)
    if kind is not MultiScaleDeformableAttention:  # the one above computes with other parameters
        mine = gradients(layer, layer(*given, **named))
        assert all(map(torch.allclose, mine, gradients(layer, wanted)))


@pytest.mark.parametrize("kind", list(CLASSES), ids=lambda kind: kind.__name__)
def test_replaced_layers_keep_all_that_they_had(kind: Any) -> None:
    theirs, (given, named) = layer_of(kind).eval(), arguments(kind)
    called: list[str] = []
    theirs.register_forward_pre_hook(lambda *_: called.append("forward pre"))
    theirs.register_full_backward_hook(lambda *_: called.append("backward"))
    theirs.register_state_dict_post_hook(lambda *_: called.append("state dict"))
    theirs.register_buffer("scale", torch.ones(2))
    theirs.note = "extra"
    layer = cudeform_torch.replace_mmcv(theirs)
    layer.state_dict()
    layer(given[0].requires_grad_(), *given[1:], **named).sum().backward()
    assert called == ["state dict", "forward pre", "backward"]
    assert (layer.note, layer.training, layer.scale.tolist()) == ("extra", False, [1, 1])


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Any) -> Any:
        return 2 * weight


def test_replaced_layers_keep_their_parametrisations() -> None:
    parametrize = torch.nn.utils.parametrize
    convolution, attention = (
        layer_of(ModulatedDeformConv2dPack),
        layer_of(MultiScaleDeformableAttention),
    )
    parametrize.register_parametrization(convolution, "weight", Doubled())
    parametrize.register_parametrization(attention.value_proj, "weight", Doubled())
    for theirs, kind in (
        (convolution, ModulatedDeformConv2dPack),
        (attention, MultiScaleDeformableAttention),
    ):
        given, named = arguments(kind)
        plain = attention.value_proj.weight if theirs is attention else None
        names = list(theirs.state_dict())
        wanted = theirs(*given, **named) if plain is None else None
        layer = cudeform_torch.replace_mmcv(theirs)
        assert isinstance(layer, CLASSES[kind])
        assert list(layer.state_dict()) == names
        output = layer(*given, **named)
        if wanted is not None:
            assert torch.allclose(output, wanted)
            parametrize.remove_parametrizations(layer, "weight")
            assert type(layer) is CLASSES[kind]
            assert torch.allclose(layer(*given, **named), wanted)


def test_derived_classes_and_models_without_layers_stay_as_they_are() -> None:
    class Derived(MultiScaleDeformableAttention):
        pass

    model = nn.Sequential(Derived(), nn.Linear(2, 2))
    cudeform_torch.replace_mmcv(model)
    assert [type(layer) for layer in model] == [Derived, nn.Linear]


def test_without_mmcv_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mmcv.ops")
    model = nn.Sequential(layer_of(DeformConv2d))
    assert type(cudeform_torch.replace_mmcv(model)[0]) is DeformConv2d


def test_a_state_dict_of_version_1_loads_into_a_replaced_pack() -> None:
    model = nn.ModuleDict({"conv": layer_of(ModulatedDeformConv2dPack)})
    cudeform_torch.replace_mmcv(model)
    state = {name: random(*t.shape) for name, t in model.state_dict().items()}
    old = {name.replace("conv.conv_offset", "conv_offset"): t for name, t in state.items()}
    assert "conv_offset.weight" in old
    model.load_state_dict(old)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_a_replaced_attention_can_be_initialised_again() -> None:
    layer = cudeform_torch.replace_mmcv(layer_of(MultiScaleDeformableAttention))
    layer.init_weights()  # mmengine calls it
    assert not layer.attention_weights.weight.any()
