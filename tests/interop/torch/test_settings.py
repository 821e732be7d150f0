"""Padding by name, and settings as arrays and tensors: the function, compiled code and layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import build
from support.torchcases import quiet, torch

import cudeform
from cudeform.interop import torch as cudeform_torch

pytestmark = quiet

SAME = ((3, 3), (0, 1))
SIZES = {"stride": (1, 1), "dilation": (2, 1)}
CASE = build("same", size=(9, 5), kernel=(4, 2), padding=SAME, **SIZES)


def test_padding_by_name_gives_the_same_results_and_gradients() -> None:
    def computed(padding: Any) -> list[Any]:
        arguments = CASE.map(lambda a: torch.tensor(a, requires_grad=True)).arguments
        output = cudeform.deform_conv2d(**arguments | {"padding": padding})
        tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
        return [output, *torch.autograd.grad(output.square().sum(), tensors)]

    for got, wanted in zip(computed("same"), computed(SAME), strict=True):
        assert torch.equal(got, wanted)


def test_exported_code_has_the_numbers_of_a_name() -> None:
    class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *tensors: Any) -> Any:
            return cudeform.deform_conv2d(*tensors, padding="same", dilation=(2, 1))

    tensors = tuple(torch.tensor(getattr(CASE, n)) for n in ("input", "offset", "weight", "bias"))
    exported = torch.export.export(Layer(), tensors)
    wanted = cudeform.deform_conv2d(*tensors, padding=SAME, dilation=(2, 1))
    assert torch.equal(exported.module()(*tensors), wanted)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_arrays_and_tensors_are_pairs(array: Any) -> None:
    case = build("arrays", stride=(2, 1), padding=((1, 0), (2, 1)))
    arguments = case.map(torch.tensor).arguments
    given = {"stride": array([2, 1]), "padding": array([[1, 0], [2, 1]])}
    wanted = cudeform.deform_conv2d(**arguments)
    assert torch.equal(cudeform.deform_conv2d(**arguments | given), wanted)
    given["stride"][0] = 1  # the numbers count, not the object
    one = arguments | {"stride": 1, "offset": torch.zeros(2, 18, 5, 6), "mask": None}
    one = {n: v.double() if isinstance(v, torch.Tensor) else v for n, v in one.items()}
    assert torch.equal(cudeform.deform_conv2d(**one | given), cudeform.deform_conv2d(**one))


def test_layers_take_names_and_arrays() -> None:
    layer = cudeform_torch.DeformConv2d(4, 3, (4, 2), padding="same", dilation=np.array([2, 1]))
    assert (layer.padding, layer.dilation) == (SAME, (2, 1))
    assert cudeform_torch.DeformConv2d(4, 3, 3, padding=np.array([1, 2])).padding == (1, 2)
    for name in ("DeformConv2dPack", "ModulatedDeformConv2dPack"):
        layer = getattr(cudeform_torch, name)(4, 3, 3, padding="same", dilation=2)
        assert layer(torch.zeros(1, 4, 7, 9)).shape == (1, 3, 7, 9)
        layer = getattr(cudeform_torch, name)(4, 3, 3, padding="valid")
        assert layer(torch.zeros(1, 4, 7, 9)).shape == (1, 3, 5, 7)
    with pytest.raises(ValueError, match='padding="same" needs stride 1'):
        cudeform_torch.DeformConv2d(4, 3, 3, stride=2, padding="same")
