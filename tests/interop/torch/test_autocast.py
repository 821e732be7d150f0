"""Autocast: float32 as in torchvision, unless all tensors have the same half precision."""

from __future__ import annotations

from typing import Any

import pytest
from support.torchcases import NAMES, SIZES, convolve, ones_of_output, quiet, tensors, torch

import cudeform
from cudeform import engine
from cudeform.interop.torch import ModulatedDeformConv2dPack

pytestmark = quiet

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def computed_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Dtypes in which the engine was called."""
    dtypes: list[str] = []
    for name in ("forward", "backward", "jvp", "double_backward"):
        function = getattr(engine, name)

        def spy(given: Any, *args: Any, function: Any = function, **kwargs: Any) -> None:
            dtypes.append(str(given.input.dtype))
            function(given, *args, **kwargs)

        monkeypatch.setattr(engine, name, spy)
    return dtypes


def test_without_autocast_two_dtypes_are_refused(torch_device: Any) -> None:
    operands = [t.float() for t in tensors(torch_device)]
    operands[0] = operands[0].bfloat16()
    with pytest.raises(TypeError, match="offset must have the dtype of input, bfloat16, got float"):
        convolve(*operands)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("which", range(5), ids=NAMES)
def test_mixed_tensors_become_float32(
    torch_device: Any, computed_in: list[str], which: int, half: Any
) -> None:
    operands = [t.float() for t in tensors(torch_device)]
    operands[which] = operands[which].to(half)
    leaves = [t.requires_grad_() for t in operands]
    with torch.autocast(torch_device.type, dtype=torch.bfloat16):
        output = convolve(*leaves)
        grads = torch.autograd.grad(output.float().sum(), leaves)
    assert output.dtype == leaves[0].dtype  # as torchvision's
    assert computed_in == ["float32", "float32"]
    singles = [t.detach().float().requires_grad_() for t in leaves]
    wanted = convolve(*singles)
    assert torch.equal(output, wanted.to(output.dtype))
    exact = torch.autograd.grad(wanted.sum(), singles)
    for grad, leaf, true in zip(grads, leaves, exact, strict=True):
        assert grad.dtype == leaf.dtype
        assert torch.allclose(grad.float(), true, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("half", HALVES)
def test_tensors_of_one_half_precision_stay_as_they_are(
    torch_device: Any, computed_in: list[str], half: Any
) -> None:
    operands = [t.to(half) for t in tensors(torch_device)]
    with torch.autocast(torch_device.type, dtype=torch.bfloat16):
        output = convolve(*operands)
    assert computed_in == [str(half).removeprefix("torch.")]
    assert torch.equal(output, convolve(*operands))


def test_the_two_halves_together_become_float32(torch_device: Any, computed_in: list[str]) -> None:
    operands = [t.half() for t in tensors(torch_device)]
    operands[2] = operands[2].bfloat16()
    with torch.autocast(torch_device.type, dtype=torch.bfloat16):
        assert convolve(*operands).dtype == torch.float16
    assert computed_in == ["float32"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_stays(torch_device: Any, computed_in: list[str], dtype: Any) -> None:
    operands = [t.to(dtype) for t in tensors(torch_device)]
    with torch.autocast(torch_device.type, dtype=torch.bfloat16):
        assert convolve(*operands).dtype == dtype
    assert computed_in == [str(dtype).removeprefix("torch.")]


def test_autocast_of_the_backward_function(torch_device: Any, computed_in: list[str]) -> None:
    operands = [t.float() for t in tensors(torch_device)]
    operands[0] = operands[0].bfloat16()
    given = (*operands[:4],)
    upstream = ones_of_output(torch_device).bfloat16()
    with torch.autocast(torch_device.type, dtype=torch.bfloat16):
        grads = cudeform.deform_conv2d_backward(
            upstream, *given, mask=operands[4], needs=("input", "weight", "mask"), **SIZES
        )
    assert computed_in == ["float32"]
    assert (grads.input.dtype, grads.weight.dtype) == (torch.bfloat16, torch.float32)
    assert grads.offset is grads.bias is None
    singles = [t.float() for t in operands]
    wanted = cudeform.deform_conv2d_backward(
        upstream.float(), *singles[:4], mask=singles[4], **SIZES
    )
    assert torch.equal(grads.weight, wanted.weight)
    assert torch.equal(grads.mask, wanted.mask)


def test_a_layer_whose_branch_autocast_makes_half(
    torch_device: Any, computed_in: list[str]
) -> None:
    layer = ModulatedDeformConv2dPack(4, 4, 3, padding=1).to(torch_device)
    image = torch.randn(1, 4, 6, 6, device=torch_device)
    with torch.autocast(torch_device.type, dtype=torch.bfloat16):
        assert layer.conv_offset(image).dtype == torch.bfloat16
        output = layer(image)
    output.sum().backward()
    assert output.dtype == torch.float32
    assert computed_in == ["float32", "float32"]
    assert all(p.grad is not None for p in layer.parameters())


def test_autocast_of_compiled_code(torch_device: Any) -> None:
    torch._dynamo.reset()
    operands = [t.float() for t in tensors(torch_device)]
    operands[0] = operands[0].bfloat16()
    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager")
    with torch.autocast(torch_device.type, dtype=torch.bfloat16):
        assert torch.equal(compiled(*operands), convolve(*operands))
