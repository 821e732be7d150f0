"""The torch adapter under torch.compile, torch.export and torch.jit.trace."""

from __future__ import annotations

import gc
import io
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.torchcases import (
    SIZES,
    close,
    convolve,
    quiet,
    tensors,
    torch,
)

import cudeform
from cudeform.interop.torch import DeformConv2d, ModulatedDeformConv2dPack

from torch._dynamo.testing import CompileCounterWithBackend  # isort: skip
from torch.func import grad, jvp  # isort: skip

pytestmark = quiet


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
    for batch in (7, 8, 11):  # unlike all other sizes: torch merges equal symbols
        many = [torch.cat([t] * 6)[:batch].requires_grad_() for t in (input, offset, mask)]
        operands = (many[0], many[1], weight, bias, many[2])
        mine, theirs = compiled(*operands), convolve(*operands)
        assert torch.allclose(mine, theirs)
        assert close(torch.autograd.grad(mine.sum(), many), torch.autograd.grad(theirs.sum(), many))
    assert counter.frame_count == 1


def test_a_layer_compiles_without_graph_breaks() -> None:
    torch._dynamo.reset()
    layer = DeformConv2d(6, 2, (3, 2), groups=2, **SIZES).double()
    input, offset, _, _, mask = tensors("cpu")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(input, offset, mask), layer(input, offset, mask))


def test_compiled_code_keeps_the_option_in_force_when_compiled() -> None:
    torch._dynamo.reset()
    offset = torch.full(
        (1, 18, 5, 5), -1.0, requires_grad=True
    )  # the edge, where the conventions differ
    input, weight = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3)

    def slope(function: Any) -> Any:
        return torch.autograd.grad(function(input, offset, weight, padding=1).sum(), offset)[0]

    compiled = torch.compile(cudeform.deform_conv2d, fullgraph=True, backend="aot_eager")
    with cudeform.options(boundary_grad="zero"):
        mine, wanted = slope(compiled), slope(cudeform.deform_conv2d)
    assert torch.allclose(mine, wanted)
    assert not torch.allclose(mine, slope(cudeform.deform_conv2d))


# No call of cudeform may come before the compilation.
COMPILES = """
import torch, torch._dynamo.testing
import cudeform

class Tensor(torch.Tensor): pass

counter = torch._dynamo.testing.CompileCounter()
operands = torch.randn(1, 4, 6, 6), torch.randn(1, 18, 6, 6), torch.randn(4, 4, 3, 3)

@torch.compile(backend=counter, fullgraph=True)
def convolve(*operands):
    return cudeform.deform_conv2d(*operands, padding=1)

for _ in range(2):
    convolve(*operands)
print(counter.frame_count)
for _ in range(2):
    convolve(*(tensor.as_subclass(Tensor) for tensor in operands))
print(counter.frame_count)

@torch.compile(backend=counter, fullgraph=True)
def attend(*operands):
    return cudeform.ms_deform_attn(operands[0], ((4, 5),), *operands[1:])

for _ in range(2):
    attend(torch.randn(1, 20, 2, 4), torch.rand(1, 5, 2, 1, 3, 2), torch.rand(1, 5, 2, 1, 3))
print(counter.frame_count)
"""


def test_a_function_is_compiled_once_for_each_type_of_tensor() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "2", "3"], done.stdout + done.stderr


def test_compiled_code_notices_another_boundary_grad() -> None:
    torch._dynamo.reset()
    operands = tensors("cpu")
    compiled = torch.compile(convolve, fullgraph=True, backend="eager")
    compiled(*operands)
    with cudeform.options(boundary_grad="zero"), pytest.raises(RuntimeError, match="was compiled"):
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
    with cudeform.options(boundary_grad="zero"):  # which the exported program must ignore
        assert torch.equal(program.module()(*operands), convolve(*operands))


def test_a_traced_layer_can_be_saved() -> None:
    layer = ModulatedDeformConv2dPack(6, 4, 3, padding=1)
    image = torch.randn(1, 6, 5, 5)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(layer, image), file)
    file.seek(0)
    assert torch.allclose(torch.jit.load(file)(image), layer(image))


@pytest.mark.filterwarnings("ignore")
def test_transforms_that_torch_cannot_compile_are_errors() -> None:
    input, offset, weight, bias, mask = tensors("cpu")

    def loss(offset: Any) -> Any:
        return convolve(input, offset, weight, bias, mask).pow(2).sum()

    def slope(offset: Any) -> Any:
        return jvp(loss, (offset,), (torch.ones_like(offset),))[1]

    def refused() -> None:
        for function in (grad(loss), slope):
            assert function(offset).abs().sum() > 0
            for fullgraph in (True, False):
                torch._dynamo.reset()
                compiled = torch.compile(function, fullgraph=fullgraph, backend="eager")
                with pytest.raises(Exception, match=r"setup_context|forward-mode|fake tensor"):
                    compiled(offset)
        gc.collect()

    # torch leaves objects behind that switch autograd off in the thread that collects them.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(refused).result()


def test_a_second_derivative_of_compiled_code_is_an_error() -> None:
    torch._dynamo.reset()
    operands = tensors("cpu", grad=True)
    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager")
    (first,) = torch.autograd.grad(compiled(*operands).sum(), operands[1], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first.sum(), operands[0])


def test_wrong_shapes_are_explained_when_traced_too() -> None:
    input, offset, weight, bias, mask = tensors("cpu")
    for fails in (convolve, torch.compile(convolve, fullgraph=True, backend="eager")):
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"offset must have shape|offset.shape\[1\] must be"):
            fails(input, offset[:, 1:], weight, bias, mask)


def test_export_with_sizes_that_have_no_bounds() -> None:
    class Net(torch.nn.Module):
        def forward(self, *operands: Any) -> Any:
            return cudeform.deform_conv2d(*operands, padding=1)

    def operands(*size: int) -> tuple[Any, ...]:
        n, h, w = size
        return torch.randn(n, 2, h, w), torch.randn(n, 18, h, w) / 3, torch.ones(2, 2, 3, 3)

    dims = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    shapes = {"operands": (dims, dims, None)}
    program = torch.export.export(Net(), operands(2, 6, 8), dynamic_shapes=shapes)
    other = operands(1, 9, 5)
    assert torch.allclose(program.module()(*other), Net()(*other))
