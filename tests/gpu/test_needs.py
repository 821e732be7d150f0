"""Only the requested gradients are computed, and nothing for an empty output."""

from __future__ import annotations

from itertools import product

import pytest
from cases import named
from hostcuda import HostDevice
from support.gpu_cases import SUBSETS, VECTORS, assert_all_agree
from support.gpu_engine import NewDevice, backward, everything, forward, through_columns

from cudeform.options import Options


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["4 groups, 2 offset groups", "no mask, no bias"])
def test_any_subset_of_gradients(new_device: NewDevice, name: str, deterministic: bool) -> None:
    case = named(name).cast("float32")
    for needs, columns in product(SUBSETS, (False, True)):
        with through_columns(columns):
            options = Options(deterministic=deterministic)
            grads = backward(new_device(), case, options, needs=needs)
        assert grads.keys() == {name for name in needs if getattr(case, name) is not None}
        assert_all_agree(grads, case, what=f"of {needs}")


def test_no_gradient_needs_no_launch() -> None:
    device = HostDevice()
    backward(device, VECTORS.cast("float32"), needs=())
    assert device.log == []


@pytest.mark.parametrize("name", ["torchvision, batch 0", "no output channels"])
def test_an_empty_output_needs_no_launch_and_its_gradients_are_zero(name: str) -> None:
    case, device = named(name).cast("float16"), HostDevice()
    results = everything(device, case)
    assert device.log == []
    assert all((array == 0).all() for array in results.values())


def test_without_input_channels_the_output_is_the_bias(new_device: NewDevice) -> None:
    case = named("no input channels").cast("float32")
    output = forward(new_device(), case)
    assert (output == case.bias[:, None, None]).all()
