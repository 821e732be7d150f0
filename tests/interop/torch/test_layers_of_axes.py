"""Layers of one and three dimensions, transposed layers, and packs of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.torchcases import quiet, torch

import cudeform.interop.torch as layers

pytestmark = quiet

SIZES = {1: (9,), 2: (5, 6), 3: (2, 4, 3)}
CONVOLUTIONS = ["DeformConv1d", "DeformConv3d"]
TRANSPOSED = [f"DeformConvTranspose{axes}d" for axes in (1, 2, 3)]


def layer_of(name: str, **more: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2, **more}
    if "Transpose" in name:
        settings["output_padding"] = 1
    return getattr(layers, name)(4, 6, 3, **settings).double()


def axes_of(name: str) -> int:
    return int(name.removesuffix("Pack")[-2])


def input_of(name: str) -> Any:
    return torch.randn(2, 4, *SIZES[axes_of(name)], dtype=torch.float64)


def torchs_own(layer: Any, name: str) -> Any:
    """torch's layer with the same parameters."""
    cls = getattr(torch.nn, name.removesuffix("Pack").removeprefix("Deform"))
    more = {"output_padding": 1} if "Transpose" in name else {}
    own = cls(4, 6, 3, stride=2, padding=1, groups=2, **more).double()
    own.load_state_dict({n: layer.state_dict()[n] for n in ("weight", "bias")})
    return own


@pytest.mark.parametrize("name", CONVOLUTIONS + TRANSPOSED)
def test_zero_offsets_are_torchs_own_layer(name: str) -> None:
    layer, input = layer_of(name), input_of(name)
    wanted = torchs_own(layer, name)(input)
    at = input if "Transpose" in name else wanted
    offset = input.new_zeros(2, axes_of(name) * 3 ** axes_of(name), *at.shape[2:])
    assert torch.allclose(layer(input, offset), wanted)


@pytest.mark.parametrize("name", [f"{each}Pack" for each in CONVOLUTIONS + TRANSPOSED])
def test_a_new_pack_displaces_nothing(name: str) -> None:
    plain, input = layer_of(name, modulated=False), input_of(name)
    assert torch.allclose(plain(input), torchs_own(plain, name)(input))
    modulated = layer_of(name, offset_groups=2)
    without_bias = torchs_own(modulated, name)
    without_bias.bias.data.zero_()
    shift = modulated.bias.view(-1, *(1,) * axes_of(name))
    assert torch.allclose(modulated(input) - shift, without_bias(input) / 2)


@pytest.mark.parametrize("name", [f"{each}Pack" for each in CONVOLUTIONS + TRANSPOSED])
def test_a_pack_learns_its_offsets(name: str) -> None:
    layer, input = layer_of(name, offset_groups=2), input_of(name)
    layer(input).pow(2).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    other = copy.deepcopy(layer)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(input), layer(input))
    assert "kernel_size=(3" in repr(layer)


@pytest.mark.parametrize("name", [f"{each}Pack" for each in CONVOLUTIONS + TRANSPOSED])
def test_groups_that_do_not_divide_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="offset_groups = 5 must divide"):
        layer_of(name, offset_groups=5)
    with pytest.raises(ValueError, match="groups = 4 must divide out_channels, got 6"):
        layer_of(name, groups=4)


@pytest.mark.parametrize("name", [f"{each}Pack" for each in CONVOLUTIONS + TRANSPOSED])
def test_a_pack_refuses_an_image_without_a_batch_axis(name: str) -> None:
    with pytest.raises(ValueError, match=r"input must have shape \(N, C"):
        layer_of(name)(input_of(name)[0])


def test_a_pack_needs_padding_alike_on_both_sides() -> None:
    with pytest.raises(ValueError, match="equal on both sides"):
        layer_of("DeformConv1dPack", padding=((1, 0),))


def test_a_compiled_layer() -> None:
    layer, input = layer_of("DeformConvTranspose2dPack"), input_of("DeformConvTranspose2d")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(input), layer(input))


@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("more", [0, 1])
def test_the_size_of_the_output_can_be_chosen(name: str, more: int) -> None:
    layer, pack, input = layer_of(name), layer_of(f"{name}Pack", modulated=False), input_of(name)
    size = [2 * n - 1 + more for n in SIZES[axes_of(name)]]
    wanted = torchs_own(layer, name)(input, output_size=size)
    offset = input.new_zeros(2, axes_of(name) * 3 ** axes_of(name), *input.shape[2:])
    assert torch.allclose(layer(input, offset, output_size=size), wanted)
    assert torch.allclose(pack(input, output_size=size), torchs_own(pack, name)(input, size))


def test_a_size_out_of_reach_is_refused() -> None:
    layer, input = layer_of("DeformConvTranspose2d"), input_of("DeformConvTranspose2d")
    offset = input.new_zeros(2, 18, *input.shape[2:])
    for size in ((9, 13), (8, 11)):
        with pytest.raises(ValueError, match=r"from \(9, 11\) to \(10, 12\) here, got"):
            layer(input, offset, output_size=size)
