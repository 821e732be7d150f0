"""Layers: parameters and results are those of the layers of torchvision and mmcv."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from support.torchcases import quiet, torch

import cudeform
from cudeform.interop import torch as cudeform_torch

pytestmark = quiet

IMAGE = (2, 6, 7, 9)


def weights(shapes: dict[str, Any]) -> dict[str, Any]:
    """A state dict with tensors of these shapes."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) / 4
        for name, shape in shapes.items()
    }


def image(*size: int) -> Any:
    return torch.randn(
        size or IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )


MMCV = {
    # mmcv's layers, by their arguments: names and shapes in their state dicts.
    "DeformConv2dPack": {
        "weight": (4, 3, 3, 2),
        "conv_offset.weight": (2 * 3 * 2 * 3, 6, 3, 2),
        "conv_offset.bias": (2 * 3 * 2 * 3,),
    },
    "ModulatedDeformConv2dPack": {
        "weight": (4, 3, 3, 2),
        "bias": (4,),
        "conv_offset.weight": (3 * 3 * 2 * 3, 6, 3, 2),
        "conv_offset.bias": (3 * 3 * 2 * 3,),
    },
}


def pack_of(kind: str) -> Any:
    sizes = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    return getattr(cudeform_torch, kind)(6, 4, (3, 2), **sizes, groups=2, deform_groups=3).double()


def mmcv_of(state: dict[str, Any], x: Any, predicted: int) -> Any:
    """mmcv's layer with that state, composed of torch's convolution and ours."""
    sizes = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    branch = torch.nn.functional.conv2d(
        x, state["conv_offset.weight"], state["conv_offset.bias"], **sizes
    )
    taps = 3 * 3 * 2
    mask = torch.sigmoid(branch[:, 2 * taps :]) if predicted == 3 else None
    arguments = (x, branch[:, : 2 * taps], state["weight"], state.get("bias"))
    return cudeform.deform_conv2d(*arguments, mask=mask, **sizes)


@pytest.mark.parametrize("kind", list(MMCV))
def test_a_state_dict_of_mmcv_loads_and_gives_its_outputs(kind: str) -> None:
    layer = pack_of(kind)
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == MMCV[kind]
    state = weights(MMCV[kind])
    layer.load_state_dict(state)
    wanted = mmcv_of(state, image(), layer.predicted)
    assert torch.allclose(layer(image()), wanted)
    assert layer.boundary_grad == "zero"


def test_a_state_dict_of_the_dcnv2_repositories_loads_under_one_new_name() -> None:
    kind = "ModulatedDeformConv2dPack"
    theirs = {
        name.replace("conv_offset.", "conv_offset_mask."): tensor
        for name, tensor in weights(MMCV[kind]).items()
    }
    layer = pack_of(kind)
    layer.load_state_dict(
        {name.replace("conv_offset_mask.", "conv_offset."): t for name, t in theirs.items()}
    )
    assert torch.allclose(layer(image()), mmcv_of(weights(MMCV[kind]), image(), 3))


@pytest.mark.parametrize(
    "kind", [cudeform_torch.DeformConv2dPack, cudeform_torch.ModulatedDeformConv2dPack]
)
def test_packs_begin_as_ordinary_convolutions(kind: Any) -> None:
    layer = kind(4, 6, 3, stride=2, padding=1, deform_groups=2).double()
    x = image(2, 4, 9, 8)
    plain = torch.nn.functional.conv2d(x, layer.weight, None, 2, 1)
    if kind is cudeform_torch.ModulatedDeformConv2dPack:  # the sigmoid of 0 is a half
        plain = plain / 2 + layer.bias[:, None, None]
    assert torch.allclose(layer(x), plain)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("rule", ["zero", "one_sided", "mmcv", None])
def test_a_layer_has_the_boundary_grad_that_it_was_given(rule: Any) -> None:
    layer = cudeform_torch.DeformConv2dPack(2, 2, 3, padding=1, boundary_grad=rule).double()
    x, slopes = image(1, 2, 5, 5), []
    for option in ("zero", "one_sided"):
        with cudeform.options(boundary_grad=option):
            (slope,) = torch.autograd.grad(layer(x).sum(), layer.conv_offset.bias)
        slopes.append(slope)
    assert torch.equal(*slopes) == (rule is not None)


def test_layers_refuse_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="must divide in_channels"):
        cudeform_torch.DeformConv2d(5, 4, 3, groups=2)
    with pytest.raises(ValueError, match="must divide out_channels"):
        cudeform_torch.DeformConv2d(4, 5, 3, groups=2)
    layer = cudeform_torch.DeformConv2d(4, 4, 3, padding=1, boundary_grad="paddle")
    with pytest.raises(ValueError, match="boundary_grad must be one of"):
        layer(torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 5, 5))


@pytest.mark.parametrize(
    "kind", [cudeform_torch.DeformConv2d, *map(cudeform_torch.__dict__.get, MMCV)]
)
def test_layers_can_be_copied_and_pickled(kind: Any) -> None:
    layer = kind(6, 4, 3, padding=1, bias=True).double()
    offset = (
        ()
        if kind is not cudeform_torch.DeformConv2d
        else (torch.full((2, 18, 7, 9), 0.3).double(),)
    )
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.weight is not layer.weight
        assert torch.equal(other(image(), *offset), layer(image(), *offset))
    assert repr(layer) == repr(copy.deepcopy(layer))


def test_a_layer_works_on_the_device_it_is_moved_to(torch_device: Any) -> None:
    layer = cudeform_torch.ModulatedDeformConv2dPack(6, 4, 3, padding=1).double()
    wanted = layer(image()).detach()
    on_device = copy.deepcopy(layer).to(torch_device)
    got = on_device(image().to(torch_device))
    assert got.device.type == torch_device.type
    assert torch.allclose(got.detach().cpu(), wanted)


def test_state_dicts_of_torchvision_load_both_ways() -> None:
    torchvision = pytest.importorskip("torchvision")
    arguments: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1)}
    torch.manual_seed(0)
    theirs = torchvision.ops.DeformConv2d(6, 4, (3, 2), groups=2, **arguments).double()
    mine = cudeform_torch.DeformConv2d(6, 4, (3, 2), groups=2, **arguments).double()
    torch.manual_seed(0)
    twin = cudeform_torch.DeformConv2d(6, 4, (3, 2), groups=2, **arguments).double()
    assert torch.allclose(twin.weight.float(), theirs.weight.float())
    assert torch.allclose(twin.bias.float(), theirs.bias.float())
    out = torch.nn.functional.conv2d(image(), theirs.weight, groups=2, **arguments).shape[2:]
    offset, mask = image(2, 3 * 12, *out), image(2, 3 * 6, *out)
    wanted = theirs(image(), offset, mask)
    assert not torch.allclose(mine(image(), offset, mask), wanted)
    mine.load_state_dict(theirs.state_dict())
    assert torch.allclose(mine(image(), offset, mask), wanted)
    theirs.load_state_dict(twin.state_dict())
    assert torch.allclose(theirs(image(), offset), twin(image(), offset))


def test_layers_of_torchvision_are_replaced_in_place() -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.ops.DeformConv2d(6, 4, 3, padding=1, bias=False).double().eval()
    offset = 0.3 * image(2, 18, 7, 9)
    wanted = theirs(image(), offset)
    model = torch.nn.ModuleDict(
        {
            "deep": torch.nn.ModuleList([theirs, theirs]),
            "again": theirs,
            "other": torch.nn.Linear(2, 2),
        }
    )
    weight, names = theirs.weight, list(model.state_dict())
    assert cudeform_torch.replace_torchvision(model) is model
    layer = model["deep"][0]
    assert type(layer) is cudeform_torch.DeformConv2d
    assert layer is model["deep"][1] is model["again"]
    assert layer.weight is weight
    assert list(model.state_dict()) == names
    assert not layer.training
    assert torch.allclose(layer(image(), offset), wanted)
    assert isinstance(cudeform_torch.replace_torchvision(theirs), cudeform_torch.DeformConv2d)


def test_classes_derived_from_a_layer_of_torchvision_are_not_replaced() -> None:
    torchvision = pytest.importorskip("torchvision")

    class Derived(torchvision.ops.DeformConv2d):
        pass

    model = torch.nn.Sequential(Derived(2, 2, 3), torchvision.ops.DeformConv2d(2, 2, 3))
    cudeform_torch.replace_torchvision(model)
    assert [type(layer) for layer in model] == [Derived, cudeform_torch.DeformConv2d]


def test_a_model_without_layers_of_torchvision_stays_as_it_is() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    child = model[0]
    assert cudeform_torch.replace_torchvision(model) is model
    assert model[0] is child


class Doubled(torch.nn.Module):
    """A parametrisation."""

    def forward(self, weight: Any) -> Any:
        return 2 * weight


def test_replaced_layers_keep_all_that_they_had() -> None:
    theirs = pytest.importorskip("torchvision").ops.DeformConv2d(6, 4, 3, padding=1).double().eval()
    called: list[str] = []
    theirs.register_forward_pre_hook(lambda *_: called.append("forward pre"))
    handle = theirs.register_forward_hook(lambda *_: called.append("forward"))
    theirs.register_full_backward_hook(lambda *_: called.append("backward"))
    theirs.register_full_backward_pre_hook(lambda *_: called.append("backward pre"))
    theirs.register_state_dict_post_hook(lambda *_: called.append("state dict"))
    theirs.register_state_dict_pre_hook(lambda *_: called.append("state dict pre"))
    theirs.register_load_state_dict_pre_hook(lambda *_: called.append("load pre"))
    theirs.register_load_state_dict_post_hook(lambda *_: called.append("load"))
    theirs.register_buffer("scale", torch.ones(2))
    theirs.weight.requires_grad_(False)
    theirs.note = "extra"
    model = torch.nn.Sequential(theirs)
    del theirs
    layer = cudeform_torch.replace_torchvision(model)[0]
    assert type(layer) is cudeform_torch.DeformConv2d
    model.load_state_dict(model.state_dict())
    layer(image().requires_grad_(), 0.3 * image(2, 18, 7, 9)).sum().backward()
    assert called == [
        *("state dict pre", "state dict", "load pre", "load"),
        *("forward pre", "forward", "backward pre", "backward"),
    ]
    assert (layer.note, layer.training, layer.weight.requires_grad) == ("extra", False, False)
    assert layer.scale.equal(torch.ones(2))
    handle.remove()
    layer(image(), 0.3 * image(2, 18, 7, 9))
    assert called[8:] == ["forward pre"]


def test_replaced_layers_keep_their_parametrisations() -> None:
    parametrize = torch.nn.utils.parametrize
    theirs = pytest.importorskip("torchvision").ops.DeformConv2d(6, 4, 3, padding=1).double()
    parametrize.register_parametrization(theirs, "weight", Doubled())
    offset = 0.3 * image(2, 18, 7, 9)
    wanted, names = theirs(image(), offset), list(theirs.state_dict())
    layer = cudeform_torch.replace_torchvision(theirs)
    assert isinstance(layer, cudeform_torch.DeformConv2d)
    assert list(layer.state_dict()) == names
    assert torch.allclose(layer(image(), offset), wanted)
    assert torch.allclose(copy.deepcopy(layer)(image(), offset), wanted)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is cudeform_torch.DeformConv2d
    assert torch.allclose(layer(image(), offset), wanted)


def version_1(kind: str) -> tuple[Any, dict[str, Any]]:
    """A model with a pack in a module of its own, and a state dict with the branch beside it."""
    block = torch.nn.ModuleDict({"conv2": pack_of(kind)})
    state = weights(MMCV[kind])
    old = {
        "block.conv2" + ("_" if "conv_" in name else ".") + name.removeprefix("conv_"): tensor
        for name, tensor in state.items()
    }
    return torch.nn.ModuleDict({"block": block}), old


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("kind", list(MMCV))
def test_a_state_dict_with_the_branch_beside_the_layer_loads(kind: str, copied: bool) -> None:
    model, old = version_1(kind)
    given = dict(old)
    if copied:
        model = copy.deepcopy(pickle.loads(pickle.dumps(model)))
    model.load_state_dict(given)
    assert list(given) == list(old)
    state = model["block"]["conv2"].state_dict()
    assert all(torch.equal(state[name], t) for name, t in weights(MMCV[kind]).items())


def test_a_branch_beside_the_layer_is_refused_in_a_state_dict_of_version_2() -> None:
    model, old = version_1("DeformConv2dPack")
    state = model.state_dict()
    metadata = state._metadata
    assert metadata["block.conv2"]["version"] == 2
    new = type(state)(old)
    new._metadata = metadata
    with pytest.raises(RuntimeError, match=r"Missing(.|\n)*Unexpected.*block.conv2_offset.weight"):
        model.load_state_dict(new)
    metadata["block.conv2"]["version"] = 1
    model.load_state_dict(new)


def test_a_module_beside_the_layer_keeps_its_state() -> None:
    model = torch.nn.ModuleDict(
        {"conv": pack_of("DeformConv2dPack"), "conv_offset": torch.nn.Linear(2, 2)}
    )
    state = {n: t for n, t in model.state_dict().items() if not n.startswith("conv.conv_offset")}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert missing == ["conv.conv_offset.weight", "conv.conv_offset.bias"]
