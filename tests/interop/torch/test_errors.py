"""Tensors that are refused, and their errors; unusual tensors that are accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.torchcases import NAMES, SIZES, convolve, ones_of_output, quiet, tensors, torch

import cudeform

pytestmark = quiet


def changed(which: int, change: Any, device: Any = "cpu") -> list[Any]:
    operands = tensors(device)
    operands[which] = change(operands[which])
    return operands


# torchvision refuses each of these too, as a RuntimeError.
WRONG = {
    "input of rank 3": (
        0,
        lambda t: t[0],
        r"input must have shape \(N, C, H, W\), got \(6, 5, 4\)",
    ),
    "offset of rank 3": (1, lambda t: t[0], "offset must have shape"),
    "weight of rank 3": (2, lambda t: t[0], "weight must have shape"),
    "offset of 2 channels": (1, lambda t: t[:, :2], "offset.shape.1. must be a positive multiple"),
    "offset of 5 groups": (1, lambda t: t.repeat(1, 5, 1, 1)[:, :60], r"must divide\s+C = 6"),
    "offset of another batch": (1, lambda t: t[:1], r"offset must have shape .* = \(2, 36, 2, 3\)"),
    "offset of another size": (1, lambda t: t[..., :2], "offset must have shape"),
    "mask of 2 channels": (4, lambda t: t[:, :2], r"mask must have shape .* = \(2, 18, 2, 3\)"),
    "mask of another batch": (4, lambda t: t[:1], "mask must have shape"),
    "weight of 4 channels": (2, lambda t: t.repeat(1, 2, 1, 1)[:, :4], "divides C = 6"),
    "weight of 1 filter": (2, lambda t: t[:1], "where groups divides O"),
    "bias of 1": (3, lambda t: t[:1], r"bias must have shape \(O,\) = \(2,\), got \(1,\)"),
    "kernel beyond the image": (2, lambda t: t.repeat(1, 1, 9, 1), "output height"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_wrong_sizes(torch_device: Any, what: str) -> None:
    which, change, text = WRONG[what]
    operands = changed(which, change, torch_device)
    with pytest.raises(ValueError, match=text):
        convolve(*operands)
    ones = ones_of_output(torch_device)
    with pytest.raises(ValueError, match=text):
        cudeform.deform_conv2d_backward(ones, *operands[:4], mask=operands[4], **SIZES)


def test_wrong_gradients_and_tangents(torch_device: Any) -> None:
    operands = tensors(torch_device)
    ones = ones_of_output(torch_device)
    given: dict[str, Any] = {"mask": operands[4], **SIZES}
    with pytest.raises(ValueError, match="grad_output must have shape"):
        cudeform.deform_conv2d_backward(ones[..., :1], *operands[:4], **given)
    with pytest.raises(TypeError, match="grad_output must have the dtype of input"):
        cudeform.deform_conv2d_backward(ones.float(), *operands[:4], **given)
    for wrong, text in ((operands[0][:1], "tangent of input"), (ones, "tangent of input")):
        tangents = cudeform.Tangents(input=wrong)
        with pytest.raises(ValueError, match=text):
            cudeform.deform_conv2d_jvp(tangents, *operands[:4], **given)
        with pytest.raises(ValueError, match=text):
            cudeform.deform_conv2d_double_backward(tangents, ones, *operands[:4], **given)
        # The operator by name looks for itself.
        call = torch.ops.cudeform.deform_conv2d_jvp
        rest = None, None, None, None, [2, 1, 1, 1, 0, 0, 2, 1, 0, 0]
        with pytest.raises(ValueError, match=text):
            call(*operands[:3], operands[4], wrong, *rest)


@pytest.mark.parametrize("which", range(5), ids=NAMES)
def test_dtypes(torch_device: Any, which: int) -> None:
    name = "offset" if which == 0 else NAMES[which]
    with pytest.raises(TypeError, match=rf"{name} must have the dtype of input, float\d\d, got"):
        convolve(*changed(which, lambda t: t.float(), torch_device))
    for dtype in (torch.int32, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=f"{NAMES[which]} must have a dtype among float16"):
            convolve(*changed(which, lambda t, dtype=dtype: t.to(dtype), torch_device))


@pytest.mark.parametrize("which", range(5), ids=NAMES)
def test_tensors_of_two_devices_are_refused(torch_device: Any, which: int) -> None:
    name = "offset" if which == 0 else NAMES[which]
    with pytest.raises(ValueError, match=f"{name} must be on the device of input, .*meta|got meta"):
        convolve(*changed(which, lambda t: t.to("meta"), torch_device))


@pytest.mark.gpu
def test_the_cpu_and_the_gpu_do_not_mix() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for which, name in enumerate(("offset", *NAMES[1:])):
        with pytest.raises(ValueError, match=f"{name} must be on the device of input"):
            convolve(*changed(which, lambda t: t.cpu(), "cuda"))


@pytest.mark.parametrize("which", range(1, 5), ids=NAMES[1:])
def test_arrays_of_two_libraries_are_refused(which: int) -> None:
    text = f"{NAMES[which]} must be an array of the same library as input, torch, got .* numpy"
    with pytest.raises(TypeError, match=text):
        convolve(*changed(which, lambda t: t.numpy()))
    with pytest.raises(TypeError, match=f"{NAMES[which]} must be an array of NumPy.* got list"):
        convolve(*changed(which, lambda t: t.tolist()))


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda t: t.float().to_mkldnn()])
def test_layouts_without_strides_are_refused(change: Any) -> None:
    operands = tensors("cpu")
    if "mkldnn" in str(change(operands[0]).layout):
        operands = [t.float() for t in operands]
    with pytest.raises(NotImplementedError, match="cudeform::deform_conv2d"):
        convolve(change(operands[0]), *operands[1:])


def test_lazy_conjugates_of_complex_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match="got complex128"):
        convolve(*(t.to(torch.complex128).conj() for t in tensors("cpu")))


def test_names_of_gradients_are_checked() -> None:
    operands = tensors("cpu")
    ones = ones_of_output("cpu")
    with pytest.raises(ValueError, match="got 'wheight'"):
        cudeform.deform_conv2d_backward(ones, *operands[:4], needs=("wheight",), **SIZES)
    with pytest.raises(TypeError, match="needs must be a sequence"):
        cudeform.deform_conv2d_backward(ones, *operands[:4], needs="weight", **SIZES)


class Derived(torch.Tensor):
    pass


def test_tensors_of_a_derived_class() -> None:
    operands = tensors("cpu")
    wanted = convolve(*operands)
    output = convolve(operands[0].as_subclass(Derived), *operands[1:])
    assert type(output) is Derived
    assert torch.equal(output.as_subclass(torch.Tensor), wanted)
    leaf = operands[0].as_subclass(Derived).requires_grad_()
    (grad,) = torch.autograd.grad(convolve(leaf, *operands[1:]).sum(), leaf)
    plain = operands[0].clone().requires_grad_()
    (true,) = torch.autograd.grad(convolve(plain, *operands[1:]).sum(), plain)
    assert torch.equal(grad.as_subclass(torch.Tensor), true)
    parameters = [torch.nn.Parameter(t) for t in operands]
    assert type(convolve(*parameters)) is torch.Tensor
    with torch.no_grad():
        assert torch.equal(convolve(*parameters), wanted)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_memory_that_is_read_only_is_read() -> None:
    operands = tensors("cpu")
    wanted = convolve(*operands)
    arrays = [t.numpy().copy() for t in operands]
    for array in arrays:
        array.flags.writeable = False
    assert torch.equal(convolve(*map(torch.from_numpy, arrays)), wanted)


def test_tensors_that_are_not_aligned() -> None:
    operands = tensors("cpu")
    shifted = []
    for t in operands:
        memory = np.zeros(t.numel() * 8 + 3, np.uint8)
        array = memory[3:].view(np.float64).reshape(t.shape)
        array[...] = t.numpy()
        shifted.append(torch.from_numpy(array))
    assert torch.equal(convolve(*shifted), convolve(*operands))


def test_bfloat16_on_the_cpu_says_which_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="pip install ml_dtypes"):
        convolve(*(t.bfloat16() for t in tensors("cpu")))
