"""Channels-last tensors in, channels-last tensors out, as torch's own convolutions do."""

from __future__ import annotations

from typing import Any

import pytest
from support.torchcases import convolve, quiet, tensors, torch

import cudeform
from cudeform.interop.torch import DeformConv2d

pytestmark = quiet

LAST = torch.channels_last


def last(tensor: Any) -> Any:
    return tensor.to(memory_format=LAST) if tensor.dim() == 4 else tensor


# Images that are channels-last in full, cropped, or by their strides alone; and two that are not.
IMAGES = {
    "whole": lambda: last(torch.randn(2, 4, 9, 8)),
    "crop": lambda: last(torch.randn(2, 4, 9, 8))[:, :, 1:-1, 2:-1],
    "some channels": lambda: last(torch.randn(2, 6, 9, 8))[:, 1:4],
    "one channel": lambda: last(torch.randn(2, 1, 9, 8)),
    "one pixel": lambda: last(torch.randn(2, 4, 1, 1)),
    "contiguous": lambda: torch.randn(2, 4, 9, 8),
    "transposed": lambda: torch.randn(2, 4, 9, 8).transpose(2, 3),
}


@pytest.mark.parametrize("weight_last", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", IMAGES)
def test_the_output_has_the_strides_that_conv2d_gives(
    kind: str, kernel: int, weight_last: bool
) -> None:
    image = IMAGES[kind]()
    layer = torch.nn.Conv2d(image.shape[1], 6, kernel, padding=1)
    if weight_last:
        layer.to(memory_format=LAST)
    wanted = layer(image)
    offset = torch.zeros(len(image), 2 * kernel**2, *wanted.shape[2:])
    got = cudeform.deform_conv2d(image, offset, layer.weight, layer.bias, padding=1)
    assert got.stride() == wanted.stride()
    assert torch.allclose(got, wanted, atol=1e-5)


def test_every_gradient_has_the_format_of_its_argument() -> None:
    operands = [last(t).detach().requires_grad_() for t in tensors("cpu")]
    output = convolve(*operands)
    grads = torch.autograd.grad(output.square().sum(), operands, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), operands)
    for tensor, first, twice in zip(operands, grads, second, strict=True):
        assert first.stride() == twice.stride() == tensor.stride()


def test_the_tangent_has_the_format_of_the_output() -> None:
    operands = tuple(map(last, tensors("cpu")))
    output, tangent = torch.func.jvp(convolve, operands, operands)
    assert output.stride() == tangent.stride()
    assert output.is_contiguous(memory_format=LAST)


def test_volumes_have_a_format_too() -> None:
    image = torch.randn(1, 2, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    output = cudeform.deform_conv3d(image, torch.zeros(1, 3, 4, 5, 6), torch.ones(3, 2, 1, 1, 1))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_stack_of_layers_keeps_the_format(dynamic: bool) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.layer = (
                torch.nn.Conv2d(4, 18, 3, padding=1),
                DeformConv2d(4, 4, 3, padding=1),
            )

        def forward(self, x: Any) -> Any:
            return self.layer(x, self.branch(x))

    net = torch.nn.Sequential(Net(), torch.nn.ReLU(), Net()).to(memory_format=LAST)
    image = last(torch.randn(2, 4, 7, 6)).requires_grad_()
    compiled = torch.compile(net, backend="aot_eager", dynamic=dynamic)
    plain, output = net(image), compiled(image)
    assert torch.allclose(output, plain)
    assert output.stride() == plain.stride()
    assert output.is_contiguous(memory_format=LAST)
    [grad] = torch.autograd.grad(output.sum(), [image])
    assert grad.is_contiguous(memory_format=LAST)


def test_nothing_is_copied_into_another_format() -> None:
    operands = [last(t) for t in tensors("cpu")]
    with torch.profiler.profile() as profile:
        convolve(*operands)
    names = {event.key for event in profile.key_averages()}
    assert not names & {"aten::copy_", "aten::clone", "aten::contiguous"}
