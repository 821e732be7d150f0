"""PyTorch tensors: an ordinary differentiable operator, in every mode that torch has."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import Case, build

import cudeform
from cudeform import engine

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import grad, hessian, jacfwd, jacrev, vmap  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from cudeform.interop import torch as door  # noqa: E402

# torch's own modules warn of their own future.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAMES = ("input", "offset", "weight", "bias", "mask")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

# torchvision's own test: no two sizes alike, groups of both kinds.
CASE = build(
    "torch",
    channels=6,
    size=(5, 4),
    out_channels=2,
    kernel=(3, 2),
    stride=(2, 1),
    padding=((1, 1), (0, 0)),
    dilation=(2, 1),
    groups=2,
    offset_groups=3,
    offset="small",
)
SIZES = {name: getattr(CASE, name) for name in ("stride", "padding", "dilation")}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Any:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(request.param)


def tensors(device: Any, case: Case = CASE, *, grad: bool = False) -> list[Any]:
    """The operands, offsets kept away from the kinks at whole coordinates."""
    offset = np.floor(case.offset * 8) / 8 + 1 / 16
    arrays = {**{name: getattr(case, name) for name in NAMES}, "offset": offset}
    return [
        torch.tensor(arrays[name], device=device, requires_grad=grad)
        for name in NAMES
        if arrays[name] is not None
    ]


def convolve(*operands: Any) -> Any:
    input, offset, weight, bias, mask = (*operands, None, None)[:5]
    return cudeform.deform_conv2d(input, offset, weight, bias, mask=mask, **SIZES)


def close(some: Any, others: Any) -> bool:
    return all(torch.allclose(a, b) for a, b in zip(some, others, strict=True))


def test_forward_and_gradients_are_those_of_numpy_arrays(device: Any) -> None:
    operands = tensors(device, grad=True)
    output = convolve(*operands)
    arrays = [t.detach().cpu().numpy() for t in operands]
    np.testing.assert_allclose(output.detach().cpu(), convolve(*arrays), rtol=1e-12)
    grads = torch.autograd.grad(output.sum(), operands)
    ones = np.ones(output.shape)
    wanted = cudeform.deform_conv2d_backward(ones, *arrays[:4], mask=arrays[4], **SIZES)
    for got, array in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(got.cpu(), array, rtol=1e-10, atol=1e-12)


def test_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = tensors("cpu")
    seen: list[int] = []
    forward = engine.forward

    def spy(given: Any, geometry: Any, options: Any, output: Any, *rest: Any) -> None:
        seen.extend(array.ctypes.data for array in [*given.present().values(), output])
        forward(given, geometry, options, output, *rest)

    monkeypatch.setattr(engine, "forward", spy)
    output = convolve(*operands)
    assert seen == [t.data_ptr() for t in (*operands, output)]


@pytest.mark.parametrize("count", [5, 4, 3])
def test_gradcheck(device: Any, count: int) -> None:
    operands = tensors(device, grad=True)[:count]
    assert gradcheck(convolve, operands, nondet_tol=1e-10)
    assert gradcheck(convolve, operands, check_forward_ad=True, check_backward_ad=False)


def test_gradgradcheck(device: Any) -> None:
    assert gradgradcheck(convolve, tensors(device, grad=True), nondet_tol=1e-10)


def test_only_what_is_needed_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = tensors("cpu")
    operands[1].requires_grad_()
    asked: list[Any] = []
    backward = engine.backward

    def spy(given: Any, geometry: Any, options: Any, grad: Any, grads: Any, *rest: Any) -> None:
        asked.append([name for name, array in grads._asdict().items() if array is not None])
        backward(given, geometry, options, grad, grads, *rest)

    monkeypatch.setattr(engine, "backward", spy)
    convolve(*operands).sum().backward()
    assert asked == [["offset"]]


def test_options_of_the_forward_hold_in_the_backward() -> None:
    case = build("edge", channels=2, out_channels=2, offset="whole")
    results = []
    for rule in ("torchvision", "mmcv"):
        operands = [torch.tensor(a, requires_grad=True) for a in (case.input, case.offset)]
        with cudeform.options(boundary_grad=rule):
            output = cudeform.deform_conv2d(*operands, torch.tensor(case.weight))
        results.append(torch.autograd.grad(output.sum(), operands[1])[0])
    assert not torch.equal(*results)


def test_func_transforms(device: Any) -> None:
    input, offset, weight, bias, mask = tensors(device)

    def loss(offset: Any) -> Any:
        return convolve(input, offset, weight, bias, mask).pow(2).sum()

    leaf = offset.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    assert torch.allclose(grad(loss)(offset), wanted)
    assert torch.allclose(jacfwd(loss)(offset), wanted)
    assert torch.allclose(jacrev(loss)(offset), wanted)
    (row,) = torch.autograd.grad(wanted.flatten()[0], leaf)
    assert torch.allclose(hessian(loss)(offset).flatten(0, 3)[0], row)


@pytest.mark.parametrize("dims", [(0,) * 5, (0, 0, None, None, 0), (0, None, 0, None, None)])
def test_vmap_is_a_loop(device: Any, dims: tuple[int | None, ...]) -> None:
    single = tensors(device)
    many = [
        t if d is None else torch.stack([t * factor for factor in (1.0, 0.5, 2.0)])
        for t, d in zip(single, dims, strict=True)
    ]
    wanted = torch.stack(
        [
            convolve(*(t if d is None else t[i] for t, d in zip(many, dims, strict=True)))
            for i in range(3)
        ]
    )
    assert torch.allclose(vmap(convolve, dims)(*many), wanted)
    nested = [t if d is None else t[None] for t, d in zip(many, dims, strict=True)]
    assert torch.allclose(vmap(vmap(convolve, dims), dims)(*nested)[0], wanted)


OPCHECKED = ["plain", "grad", "no mask", "no bias or mask", "partial", "strides", "empty", "half"]


@pytest.mark.parametrize("what", OPCHECKED)
def test_opcheck(device: Any, what: str) -> None:
    operands: list[Any] = tensors(device, grad=what == "grad")
    if what.startswith("no"):
        operands[4] = None
    if what == "no bias or mask":
        operands[3] = None
    if what == "partial":
        operands[1].requires_grad_()
    if what == "strides":
        operands[0] = operands[0].transpose(2, 3).contiguous().transpose(2, 3)
    if what == "empty":
        operands = [
            t[:0] if t.dim() == 4 and t.shape[0] == 2 and i != 2 else t
            for i, t in enumerate(operands)
        ]
    if what == "half":
        operands = [t.bfloat16() for t in operands]
    settings = [2, 1, 1, 1, 0, 0, 2, 1, 0, 0]
    outcome = torch.library.opcheck(torch.ops.cudeform.deform_conv2d.default, (*operands, settings))
    assert set(outcome.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(device: Any, backend: str) -> None:
    torch._dynamo.reset()
    operands = tensors(device, grad=True)

    def step(*operands: Any) -> Any:
        return convolve(operands[0].sin(), *operands[1:]).relu() * 2

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    mine, theirs = compiled(*operands), step(*operands)
    assert torch.allclose(mine, theirs)
    assert close(
        torch.autograd.grad(mine.sum(), operands), torch.autograd.grad(theirs.sum(), operands)
    )


def test_compile_with_sizes_that_change() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager", dynamic=True)
    input, offset, weight, bias, mask = tensors("cpu")
    for batch in (2, 3, 5):
        many = [torch.cat([t] * 3)[:batch] for t in (input, offset, mask)]
        operands = (many[0], many[1], weight, bias, many[2])
        assert torch.allclose(compiled(*operands), convolve(*operands))


def test_wrong_shapes_are_told_in_words_even_when_traced() -> None:
    input, offset, weight, bias, mask = tensors("cpu")
    for fails in (convolve, torch.compile(convolve, fullgraph=True, backend="eager")):
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"offset must have shape|offset.shape\[1\] must be"):
            fails(input, offset[:, 1:], weight, bias, mask)


def test_autocast_computes_in_float32_unless_all_are_half(device: Any) -> None:
    single = [t.float() for t in tensors(device)]
    mixed = [single[0].bfloat16(), *single[1:]]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert convolve(*mixed).dtype == torch.bfloat16
        assert torch.allclose(
            convolve(*mixed).float(), convolve(mixed[0].float(), *single[1:]), rtol=1e-2, atol=1e-2
        )
        assert convolve(*(t.bfloat16() for t in single)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(device: Any, dtype: Any) -> None:
    halves = [t.to(dtype).requires_grad_() for t in tensors(device)]
    output = convolve(*halves)
    wanted = convolve(*(t.detach().double() for t in halves))
    assert torch.allclose(output.double(), wanted, rtol=2e-2, atol=2e-2)
    output.sum().backward()
    assert all(t.grad.dtype == dtype for t in halves)


@pytest.mark.parametrize("layout", ["channels last", "sliced", "expanded", "negative"])
def test_tensors_that_are_not_contiguous(device: Any, layout: str) -> None:
    input, offset, weight, bias, mask = tensors(device)
    if layout == "channels last":
        changed = input.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        changed = torch.cat([input, input], dim=3)[..., : input.shape[3]]
    elif layout == "expanded":
        offset = offset[:1, :, :1, :1].expand_as(offset)
        changed, input = input, input
    else:
        changed = torch.complex(torch.zeros_like(input), -input).conj().imag
    assert torch.allclose(
        convolve(changed, offset, weight, bias, mask),
        convolve(input.contiguous(), offset.contiguous(), weight, bias, mask),
    )


def test_checkpoint_and_an_empty_batch() -> None:
    operands = tensors("cpu", grad=True)
    wanted = torch.autograd.grad(convolve(*operands).sum(), operands)
    again = checkpoint(convolve, *operands, use_reentrant=False)
    assert close(torch.autograd.grad(again.sum(), operands), wanted)
    input, offset, weight, bias, mask = tensors("cpu", grad=True)
    output = convolve(input[:0], offset[:0], weight, bias, mask[:0])
    output.sum().backward()
    assert output.shape[0] == 0
    assert not weight.grad.any()


def test_threads() -> None:
    operands = tensors("cpu")

    def run(_: int) -> Any:
        leaves = [t.clone().requires_grad_() for t in operands]
        return torch.autograd.grad(convolve(*leaves).sum(), leaves)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(12)))
    assert all(close(result, results[0]) for result in results)


def test_arrays_of_two_libraries_are_refused() -> None:
    input, offset, weight, *_ = tensors("cpu")
    with pytest.raises(TypeError, match=r"offset must .* as input, torch, got an array of numpy"):
        cudeform.deform_conv2d(input, offset.numpy(), weight, **SIZES)


def test_backward_of_tensors_is_differentiable() -> None:
    input, offset, weight, bias, mask = tensors("cpu", grad=True)
    ones = torch.ones_like(convolve(input, offset, weight, bias, mask))
    grads = cudeform.deform_conv2d_backward(ones, input, offset, weight, bias, mask=mask, **SIZES)
    assert isinstance(grads, cudeform.Gradients)
    (second,) = torch.autograd.grad(grads.weight.pow(2).sum(), offset)
    assert second.abs().sum() > 0


@pytest.mark.parametrize("kind", [door.DeformConv2dPack, door.ModulatedDeformConv2dPack])
def test_packs_begin_as_ordinary_convolutions(kind: Any) -> None:
    layer = kind(4, 6, 3, stride=2, padding=1, deform_groups=2)
    image = torch.randn(2, 4, 9, 8)
    plain = torch.nn.functional.conv2d(image, layer.weight, None, 2, 1)
    if kind is door.ModulatedDeformConv2dPack:  # the sigmoid of 0 is a half
        plain = plain / 2 + layer.bias[:, None, None]
    assert torch.allclose(layer(image), plain, atol=1e-5)
    names = {"weight", "conv_offset.weight", "conv_offset.bias"}
    assert names <= set(layer.state_dict()) <= names | {"bias"}


def test_layers_can_be_copied_and_pickled() -> None:
    layer = door.ModulatedDeformConv2dPack(3, 4, 3, padding=1)
    image = torch.randn(1, 3, 6, 6)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(image), layer(image))


def test_layers_of_torchvision_are_swapped_and_agree() -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=2)
    image, offset = torch.randn(2, 4, 7, 6), torch.randn(2, 18, 7, 6)
    wanted = theirs(image, offset)
    mine = door.DeformConv2d(4, 6, 3, padding=1, groups=2)
    mine.load_state_dict(theirs.state_dict())
    assert torch.allclose(mine(image, offset), wanted, atol=1e-5)
    model = torch.nn.ModuleDict({"layer": theirs})
    door.replace_torchvision(model)
    assert isinstance(model["layer"], door.DeformConv2d)
    assert model["layer"].weight is theirs.weight


def test_the_second_order_functions_take_tensors() -> None:
    operands = tensors("cpu")
    arrays = [t.numpy() for t in operands]
    ones = np.ones(convolve(*arrays).shape)
    tangents = cudeform.Gradients(*(torch.ones_like(t) for t in operands))
    plain = cudeform.Gradients(*(np.ones_like(a) for a in arrays))
    got = cudeform.deform_conv2d_jvp(tangents, *operands[:4], mask=operands[4], **SIZES)
    wanted = cudeform.deform_conv2d_jvp(plain, *arrays[:4], mask=arrays[4], **SIZES)
    np.testing.assert_allclose(got, wanted)
    second = cudeform.deform_conv2d_double_backward(
        tangents, torch.tensor(ones), *operands[:4], mask=operands[4], needs=("offset",), **SIZES
    )
    expected = cudeform.deform_conv2d_double_backward(
        plain, ones, *arrays[:4], mask=arrays[4], needs=("offset",), **SIZES
    )
    assert second.input is None
    np.testing.assert_allclose(second.offset, expected.offset)
