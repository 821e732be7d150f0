"""Tensors: an ordinary differentiable operator, without copies and without unneeded results.

Transforms, compilers and layers have their own files in this folder.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from cases import build
from support.torchcases import CASE, NAMES, SIZES, close, convolve, quiet, tensors, torch

import cudeform
from cudeform import engine
from cudeform.interop.torch import dispatch as torch_ops

from torch.utils.checkpoint import checkpoint  # isort: skip

pytestmark = quiet


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arrays of the last forward and the last backward of the engine, by name."""
    arrays: dict[str, Any] = {}
    forward, backward = engine.forward, engine.backward

    def spy_forward(given: Any, geometry: Any, options: Any, output: Any, *rest: Any) -> None:
        arrays["forward"] = given.present() | {"output": output}
        forward(given, geometry, options, output, *rest)

    def spy_backward(
        given: Any, geometry: Any, options: Any, grad: Any, grads: Any, *rest: Any
    ) -> None:
        wanted = {f"grad of {n}": a for n, a in grads._asdict().items() if a is not None}
        arrays["backward"] = given.present() | {"grad_output": grad} | wanted
        backward(given, geometry, options, grad, grads, *rest)

    monkeypatch.setattr(engine, "forward", spy_forward)
    monkeypatch.setattr(engine, "backward", spy_backward)
    return arrays


def addresses(arrays: dict[str, Any]) -> dict[str, int]:
    return {name: array.ctypes.data for name, array in arrays.items()}


def test_forward_and_gradients_are_those_of_numpy_arrays(torch_device: Any) -> None:
    operands = tensors(torch_device, grad=True)
    output = convolve(*operands)
    arrays = [t.detach().cpu().numpy() for t in operands]
    np.testing.assert_allclose(output.detach().cpu(), convolve(*arrays), rtol=1e-12)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    grads = torch.autograd.grad((output * weights.to(torch_device)).sum(), operands)
    wanted = cudeform.deform_conv2d_backward(weights.numpy(), *arrays[:4], mask=arrays[4], **SIZES)
    for got, array in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(got.cpu(), array, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_nothing_is_copied(seen: dict[str, Any], dtype: Any) -> None:
    operands = [t.to(dtype).requires_grad_() for t in tensors("cpu")]
    output = convolve(*operands)
    pointers = {name: t.data_ptr() for name, t in zip(NAMES, operands, strict=True)}
    assert addresses(seen["forward"]) == pointers | {"output": output.data_ptr()}
    ones = torch.ones_like(output)
    grads = torch.autograd.grad(output, operands, ones)
    written = {f"grad of {n}": g.data_ptr() for n, g in zip(NAMES, grads, strict=True)}
    assert addresses(seen["backward"]) == pointers | {"grad_output": ones.data_ptr()} | written


def test_views_and_broadcast_tensors_are_not_copied(seen: dict[str, Any]) -> None:
    input, offset, *rest = tensors("cpu")
    channels_last = input.contiguous(memory_format=torch.channels_last)
    broadcast = offset[:1, :, :1, :1].expand_as(offset)
    convolve(channels_last, broadcast, *rest)
    assert seen["forward"]["input"].ctypes.data == channels_last.data_ptr()
    assert seen["forward"]["offset"].ctypes.data == broadcast.data_ptr()
    assert seen["forward"]["offset"].strides[0] == 0


@pytest.mark.parametrize("needed", [(name,) for name in NAMES] + [("input", "mask"), NAMES])
def test_only_what_is_needed_is_computed(seen: dict[str, Any], needed: tuple[str, ...]) -> None:
    operands = dict(zip(NAMES, tensors("cpu"), strict=True))
    for name in needed:
        operands[name].requires_grad_()
    convolve(*operands.values()).sum().backward()
    assert [n for n in seen["backward"] if n.startswith("grad of")] == [
        f"grad of {name}" for name in needed
    ]
    assert [name for name, t in operands.items() if t.grad is not None] == list(needed)


def test_nothing_is_saved_where_no_gradient_is_needed(torch_device: Any) -> None:
    assert not convolve(*tensors(torch_device)).requires_grad
    operands = tensors(torch_device, grad=True)
    with torch.no_grad():
        assert not convolve(*operands).requires_grad
    with torch.inference_mode():
        assert convolve(*operands).is_inference()
    assert convolve(*operands).requires_grad


def test_options_of_the_forward_hold_in_the_backward() -> None:
    case = build("edge", channels=2, out_channels=2, offset="whole")
    results = []
    for rule in ("one_sided", "zero"):
        operands = [torch.tensor(a, requires_grad=True) for a in (case.input, case.offset)]
        with cudeform.options(boundary_grad=rule):
            output = cudeform.deform_conv2d(*operands, torch.tensor(case.weight))
        results.append(torch.autograd.grad(output.sum(), operands[1])[0])
    assert not torch.equal(*results)


def test_all_options_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(engine, "forward", lambda *args, **_: taken.append(args[2]))
    monkeypatch.setattr(engine, "backward", lambda *args, **_: taken.append(args[2]))
    choices: dict[str, Any] = {
        "deterministic": True,
        "allow_tf32": True,
        "workspace_limit": 12345,
        "boundary_grad": "zero",
        "num_threads": 3,
    }
    for name, value in choices.items():
        with cudeform.options(**{name: value}) as chosen:
            output = convolve(*tensors("cpu", grad=True))
        output.sum().backward()
        assert taken == [chosen, chosen]
        taken.clear()


def test_a_gradient_is_the_same_bit_for_bit_every_time(torch_device: Any) -> None:
    operands = tensors(torch_device, grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (torch.autograd.grad(convolve(*operands).sum(), operands) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(torch_device: Any, dtype: Any) -> None:
    halves = [t.to(dtype).requires_grad_() for t in tensors(torch_device)]
    exact = [t.detach().double().requires_grad_() for t in halves]
    output, wanted = convolve(*halves), convolve(*exact)
    assert torch.allclose(output.double(), wanted, rtol=2e-2, atol=2e-2)
    got = torch.autograd.grad(output.sum(), halves)
    for grad, true in zip(got, torch.autograd.grad(wanted.sum(), exact), strict=True):
        assert grad.dtype == dtype
        assert torch.allclose(grad.double(), true, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("layout", ["channels last", "sliced", "expanded", "negative", "permuted"])
def test_tensors_that_are_not_contiguous(torch_device: Any, layout: str) -> None:
    leaves = tensors(torch_device, grad=True)
    changed = list(leaves)
    if layout == "channels last":
        changed = [
            t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in leaves
        ]
    elif layout == "sliced":
        changed = [torch.stack([t, 2 * t], dim=-1)[..., 0] for t in leaves]
    elif layout == "expanded":
        leaves[1] = changed[1] = leaves[1][:1, :, :1, :1].expand_as(leaves[1])
    elif layout == "negative":  # a lazy minus sign, which NumPy does not have
        changed = [torch.complex(torch.zeros_like(t), -t).conj().imag for t in leaves]
        assert all(t.is_neg() for t in changed)
    else:  # torchvision's own test
        changed = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in leaves]
    mine, wanted = convolve(*changed), convolve(*leaves)
    assert torch.allclose(mine, wanted)
    memory_format = torch.channels_last if layout == "channels last" else torch.contiguous_format
    assert mine.is_contiguous(memory_format=memory_format)
    leaves = [t for t in leaves if t.is_leaf]
    weights = torch.randn_like(mine).transpose(2, 3).contiguous().transpose(2, 3)
    found = torch.autograd.grad(mine, leaves, weights, retain_graph=True)
    assert close(found, torch.autograd.grad(wanted, leaves, weights))
    given = [t for t in changed if t.requires_grad]
    for tensor, grad in zip(given, torch.autograd.grad(mine, given, weights), strict=True):
        assert grad.is_contiguous() or grad.stride() == tensor.stride()


def test_an_operand_overwritten_before_the_backward_is_an_error(torch_device: Any) -> None:
    operands = tensors(torch_device, grad=True)
    output = convolve(operands[0] * 1, *operands[1:])
    with torch.no_grad():
        operands[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_results_without_the_private_names_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = tensors("cpu", grad=True)
    wanted = convolve(*operands)
    monkeypatch.setattr(torch_ops, "_functorch_active", lambda: True)
    monkeypatch.setattr(torch_ops, "_below_autograd", nullcontext)
    output = convolve(*operands)
    assert torch.equal(output, wanted)
    assert close(
        torch.autograd.grad(output.sum(), operands), torch.autograd.grad(wanted.sum(), operands)
    )


def test_checkpoint(torch_device: Any) -> None:
    operands = tensors(torch_device, grad=True)
    wanted = torch.autograd.grad(convolve(*operands).sum(), operands)
    again = checkpoint(convolve, *operands, use_reentrant=False)
    assert close(torch.autograd.grad(again.sum(), operands), wanted)


def test_an_empty_batch(torch_device: Any) -> None:
    input, offset, weight, bias, mask = tensors(torch_device, grad=True)
    output = convolve(input[:0], offset[:0], weight, bias, mask[:0])
    assert output.shape == (0, *CASE.grad_output.shape[1:])
    output.sum().backward()
    for leaf in (input, offset, weight, bias, mask):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_threads(torch_device: Any) -> None:
    operands = tensors(torch_device)

    def run(_: int) -> Any:
        leaves = [t.clone().requires_grad_() for t in operands]
        return torch.autograd.grad(convolve(*leaves).sum(), leaves)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(12)))
    assert all(close(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_calls_leave_the_storages_free_to_change(dtype: Any) -> None:
    operands = [t.to(dtype).requires_grad_() for t in tensors("cpu")]
    output = convolve(*operands)
    grad_output = torch.ones_like(output)
    grads = torch.autograd.grad(output, operands, grad_output, create_graph=True)
    seconds = torch.autograd.grad(grads[2].sum(), operands[:2])
    wide = torch.zeros(*operands[0].shape[:3], 2 * operands[0].shape[3], dtype=dtype)
    convolve(wide[..., ::2], *operands[1:])
    for tensor in (*operands, output, grad_output, *grads, *seconds, wide):
        storage = tensor.untyped_storage()
        assert storage.resizable()
        version, nbytes = tensor._version, storage.nbytes()
        storage.resize_(0)
        storage.resize_(nbytes)
        assert tensor._version == version


def test_a_tensor_whose_storage_was_freed_is_an_error() -> None:
    operands = tensors("cpu")
    operands[1].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="freed"):
        convolve(*operands)
