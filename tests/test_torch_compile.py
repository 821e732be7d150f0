"""The torch door under torch.library's own checks, torch.compile and torch.export."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from torchcases import (
    SETTINGS,
    SIZES,
    close,
    convolve,
    ones_of_output,
    quiet,
    tensors,
    torch,
)

import cudeform
from cudeform.interop.torch import DeformConv2d

from torch._dynamo.testing import CompileCounterWithBackend  # isort: skip
from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip
from torch.func import grad, jvp, vmap  # isort: skip

pytestmark = quiet

CONFIGURATIONS = [
    "plain",
    "grad",
    "no mask",
    "no bias or mask",
    "partial",
    "strides",
    "empty",
    "half",
]


def configured(what: str, device: Any) -> tuple[list[Any], Any]:
    """The operands and a gradient of the output."""
    operands: list[Any] = tensors(device, grad=what == "grad")
    grad_output = ones_of_output(device).requires_grad_(what == "grad")
    if what.startswith("no"):
        operands[4] = None
    if what == "no bias or mask":
        operands[3] = None
    if what == "partial":
        operands[1].requires_grad_()
    if what == "strides":
        operands = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in operands]
        grad_output = grad_output.transpose(2, 3).contiguous().transpose(2, 3)
    if what == "empty":
        operands = [t[:0] if i in (0, 1, 4) else t for i, t in enumerate(operands)]
        grad_output = grad_output[:0]
    if what == "half":
        operands, grad_output = [t.bfloat16() for t in operands], grad_output.bfloat16()
    return operands, grad_output


def assert_sound(operator: Any, *args: Any) -> None:
    checks = torch.library.opcheck(operator.default, args)
    assert len(checks) >= 4
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_opcheck(torch_device: Any, what: str) -> None:
    operands, _ = configured(what, torch_device)
    assert_sound(torch.ops.cudeform.deform_conv2d, *operands, SETTINGS)


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_opcheck_of_the_backward(torch_device: Any, what: str) -> None:
    operands, grad_output = configured(what, torch_device)
    needs = [what != "partial", True, True, operands[3] is not None, operands[4] is not None]
    operator = torch.ops.cudeform.deform_conv2d_backward
    assert_sound(operator, grad_output, *operands, needs, SETTINGS)


@pytest.mark.parametrize("what", ["plain", "grad", "no mask", "strides", "empty"])
def test_opcheck_of_the_second_order(torch_device: Any, what: str) -> None:
    operands, grad_output = configured(what, torch_device)
    without_bias = *operands[:3], operands[4]
    tangents = [None if t is None else t.detach() * 0.5 for t in operands]
    tangents[0] = None
    given = without_bias, tangents
    assert_sound(torch.ops.cudeform.deform_conv2d_jvp, *given[0], *given[1], SETTINGS)
    needs = [True, False, True, True, operands[4] is not None]
    # It has no derivative to be checked.
    plain = [None if t is None else t.detach() for t in (grad_output, *without_bias)]
    operator = torch.ops.cudeform.deform_conv2d_double_backward
    assert_sound(operator, *plain, *tangents, needs, SETTINGS)


def test_shapes_are_known_without_contents() -> None:
    operands = tensors("cpu", grad=True)
    wanted = convolve(*operands)
    meta = convolve(*(t.detach().to("meta") for t in operands))
    assert meta.shape == wanted.shape
    assert meta.is_meta
    plain = [t.detach() for t in operands]
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t).requires_grad_() for t in plain]
        fake = convolve(*fakes)
        grads = torch.autograd.grad(fake.sum(), fakes)
    assert (fake.shape, fake.stride(), fake.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
    assert [g.shape for g in grads] == [t.shape for t in operands]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(torch_device: Any, backend: str) -> None:
    if backend == "inductor" and torch_device.type == "cpu" and not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    torch._dynamo.reset()
    operands = tensors(torch_device, grad=True)

    def step(*operands: Any) -> Any:
        return convolve(operands[0].sin(), *operands[1:]).relu() * 2

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    mine, theirs = compiled(*operands), step(*operands)
    assert torch.allclose(mine, theirs)
    assert close(
        torch.autograd.grad(mine.sum(), operands), torch.autograd.grad(theirs.sum(), operands)
    )


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_with_sizes_that_change(backend: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(convolve, fullgraph=True, backend=counter, dynamic=True)
    input, offset, weight, bias, mask = tensors("cpu")
    convolve(input, offset, weight, bias, mask)
    for batch in (7, 8, 11):  # unlike any other size: equal ones are taken for one
        many = [torch.cat([t] * 6)[:batch].requires_grad_() for t in (input, offset, mask)]
        operands = (many[0], many[1], weight, bias, many[2])
        mine, theirs = compiled(*operands), convolve(*operands)
        assert torch.allclose(mine, theirs)
        assert close(torch.autograd.grad(mine.sum(), many), torch.autograd.grad(theirs.sum(), many))
    assert counter.frame_count == 1


def test_a_layer_is_compiled_whole() -> None:
    torch._dynamo.reset()
    layer = DeformConv2d(6, 2, (3, 2), groups=2, **SIZES).double()
    input, offset, _, _, mask = tensors("cpu")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(input, offset, mask), layer(input, offset, mask))


def test_compiled_code_notices_another_boundary_grad() -> None:
    torch._dynamo.reset()
    operands = tensors("cpu")
    compiled = torch.compile(convolve, fullgraph=True, backend="eager")
    compiled(*operands)
    with cudeform.options(boundary_grad="mmcv"), pytest.raises(RuntimeError, match="was compiled"):
        compiled(*operands)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    class Model(torch.nn.Module):
        def forward(self, *operands: Any) -> Any:
            return convolve(*operands)

    batch = torch.export.Dim("batch")
    first, whole = {0: batch}, None
    program = torch.export.export(
        Model(),
        tuple(tensors("cpu")),
        dynamic_shapes=((first, first, whole, whole, first),),
        strict=strict,
    )
    input, offset, weight, bias, mask = tensors("cpu")
    more = [torch.cat([t, t, t]) for t in (input, offset, mask)]
    operands = (more[0], more[1], weight, bias, more[2])
    with cudeform.options(boundary_grad="mmcv"):  # not for the program to know
        assert torch.equal(program.module()(*operands), convolve(*operands))


@pytest.mark.filterwarnings("ignore")
def test_what_no_compiler_of_torch_can_do_is_an_error() -> None:
    input, offset, weight, bias, mask = tensors("cpu")

    def loss(offset: Any) -> Any:
        return convolve(input, offset, weight, bias, mask).pow(2).sum()

    def slope(offset: Any) -> Any:
        return jvp(loss, (offset,), (torch.ones_like(offset),))[1]

    for function in (grad(loss), slope):
        assert function(offset).abs().sum() > 0
        for fullgraph in (True, False):
            torch._dynamo.reset()
            compiled = torch.compile(function, fullgraph=fullgraph, backend="eager")
            with pytest.raises(Exception, match=r"setup_context|forward-mode|fake tensor"):
                compiled(offset)


def test_a_second_derivative_of_compiled_code_is_an_error() -> None:
    torch._dynamo.reset()
    operands = tensors("cpu", grad=True)
    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager")
    (first,) = torch.autograd.grad(compiled(*operands).sum(), operands[1], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first.sum(), operands[0])


def test_wrong_shapes_are_told_in_words_even_when_traced() -> None:
    input, offset, weight, bias, mask = tensors("cpu")
    for fails in (convolve, torch.compile(convolve, fullgraph=True, backend="eager")):
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"offset must have shape|offset.shape\[1\] must be"):
            fails(input, offset[:, 1:], weight, bias, mask)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="settings must be 10 or 14 integers"):
        torch.ops.cudeform.deform_conv2d(*tensors("cpu"), SETTINGS[:3])


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
def test_vmap_of_the_operator_and_of_what_is_compiled(backend: str | None) -> None:
    torch._dynamo.reset()
    input, offset, weight, bias, mask = tensors("cpu")
    offsets = torch.stack([torch.stack([offset, offset / 2]), torch.stack([offset / 4, offset])])
    weights = torch.stack([weight, 2 * weight])

    def by_name(offset: Any, weight: Any) -> Any:
        return torch.ops.cudeform.deform_conv2d(input, offset, weight, bias, mask, SETTINGS)

    def call(offset: Any, weight: Any) -> Any:
        return convolve(input, offset, weight, bias, mask)

    function = vmap(vmap(call if backend else by_name, (0, None)), (0, 0))
    if backend:
        function = torch.compile(function, fullgraph=True, backend=backend)
    wanted = [[call(offsets[i, j], weights[i]) for j in range(2)] for i in range(2)]
    assert torch.allclose(function(offsets, weights), torch.stack([*map(torch.stack, wanted)]))
