"""Deformable attention and DCNv3 of tensors, beside compositions of torch's own functions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from support.functions import function_of_operands
from support.sumcases import ATTENTION, DCNV3, attention, dcn
from support.torchcases import quiet, torch

import cudeform

pytestmark = quiet

LEVELS = ATTENTION.settings["spatial_shapes"]


def by_grid_sample(value: Any, locations: Any, weights: Any, levels: Any) -> Any:
    """The composition that models fall back to without a kernel."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    sampled, first = [], 0
    for at, (height, width) in enumerate(levels):
        pixels = value[:, first : first + height * width].flatten(2).transpose(1, 2)
        image = pixels.reshape(batch * heads, channels, height, width)
        grid = (2 * locations[:, :, :, at] - 1).transpose(1, 2).flatten(0, 1)
        sampled.append(torch.nn.functional.grid_sample(image, grid, align_corners=False))
        first += height * width
    samples = torch.stack(sampled, -2).flatten(-2)
    factors = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    assert factors.shape[-1] == len(levels) * points
    return (samples * factors).sum(-1).reshape(batch, -1, queries).transpose(1, 2)


def dcnv3_by_grid_sample(input: Any, offset: Any, mask: Any, kernel: int, scale: float) -> Any:
    """DCNv3 of the size of its input: stride 1, padding kernel // 2."""
    batch, height, width, channels = input.shape
    taps = kernel * kernel
    groups = mask.shape[3] // taps
    image = input.permute(0, 3, 1, 2).reshape(batch * groups, channels // groups, height, width)
    reach = torch.arange(kernel, dtype=input.dtype) - kernel // 2
    grid = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1).reshape(taps, 2)  # x first
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    base = torch.stack([cols, rows], -1)[None, :, :, None, None]
    points = base + (grid + offset.reshape(batch, height, width, groups, taps, 2)) * scale
    size = torch.tensor([width, height], dtype=input.dtype)
    normalized = (2 * points + 1) / size - 1
    grids = normalized.permute(0, 3, 1, 2, 4, 5).reshape(batch * groups, height, width * taps, 2)
    samples = torch.nn.functional.grid_sample(image, grids, align_corners=False)
    samples = samples.reshape(batch, groups, -1, height, width, taps)
    factors = mask.reshape(batch, height, width, groups, taps).permute(0, 3, 1, 2, 4)[:, :, None]
    return (samples * factors).sum(-1).reshape(batch, channels, height, width).permute(0, 2, 3, 1)


def leaves(case: Any) -> list[Any]:
    return [torch.tensor(array, requires_grad=True) for array in case.operands.values()]


def assert_same(got: Any, wanted: Any, operands: Any) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(wanted)
    pairs = (torch.autograd.grad(each, operands, cotangent) for each in (got, wanted))
    for one, two in zip(*pairs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("queries", [5, 13])
def test_attention_is_a_composition_of_grid_sample(queries: int) -> None:
    case = attention("beside grid_sample", batch=3, queries=queries, reach=(-0.4, 1.4))
    operands = leaves(case)
    got = function_of_operands(case)(*operands)
    assert_same(got, by_grid_sample(*operands, LEVELS), operands)


@pytest.mark.parametrize(("kernel", "scale"), [(3, 1.0), (3, 0.7), (5, 2.0)])
def test_dcnv3_is_a_composition_of_grid_sample(kernel: int, scale: float) -> None:
    half = kernel // 2
    case = dcn(
        "beside grid_sample",
        kernel_size=(kernel, kernel),
        padding=((half, half), (half, half)),
        offset_scale=scale,
    )
    operands = leaves(case)
    got = function_of_operands(case)(*operands)
    assert_same(got, dcnv3_by_grid_sample(*operands, kernel, scale), operands)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_keeps_a_half_value_and_float32_locations(half: Any) -> None:
    value, locations, weights = [tensor.detach().float() for tensor in leaves(ATTENTION)]
    value = value.to(half).requires_grad_()
    locations.requires_grad_()
    with torch.autocast("cpu", half):
        output = cudeform.ms_deform_attn(value, LEVELS, locations, weights.to(half))
    assert output.dtype == half
    wanted = cudeform.ms_deform_attn(value, LEVELS, locations, weights.to(half).float())
    assert torch.equal(output, wanted)
    grads = torch.autograd.grad(output.float().sum(), (value, locations))
    assert [grad.dtype for grad in grads] == [half, torch.float32]


def test_tensors_of_two_dtypes_have_gradients_in_their_own() -> None:
    operands = leaves(ATTENTION.cast("float16", "float32"))
    output = function_of_operands(ATTENTION)(*operands)
    output.float().sum().backward()
    assert [tensor.grad.dtype for tensor in operands] == [t.dtype for t in operands]


def test_spatial_shapes_may_be_a_tensor() -> None:
    operands, function = leaves(ATTENTION), function_of_operands(ATTENTION)
    got = cudeform.ms_deform_attn(operands[0], torch.tensor(LEVELS), *operands[1:])
    assert torch.equal(got, function(*operands))


def test_a_tensor_of_spatial_shapes_is_refused_in_compiled_code() -> None:
    operands, shapes = leaves(ATTENTION), torch.tensor(LEVELS)
    compiled = torch.compile(
        lambda *o: cudeform.ms_deform_attn(o[0], o[1], *o[2:]), fullgraph=True, backend="eager"
    )
    with pytest.raises(
        Exception, match=r"spatial_shapes must have values .* spatial_shapes.tolist"
    ):
        compiled(operands[0], shapes, *operands[1:])


def test_a_tensor_of_spatial_shapes_is_read_where_compiled_code_may_break() -> None:
    operands, function = leaves(ATTENTION), function_of_operands(ATTENTION)
    compiled = torch.compile(
        lambda *o: cudeform.ms_deform_attn(o[0], o[1], *o[2:]), backend="eager"
    )
    assert torch.equal(
        compiled(operands[0], torch.tensor(LEVELS), *operands[1:]), function(*operands)
    )


FIRST_CALL = """
import torch
import cudeform

def convolve(*operands):
    return cudeform.deform_conv2d(*operands)

def sum(*operands):
    return cudeform.dcnv3(*operands, kernel_size=3, padding=1)

shapes = {convolve: [(1, 2, 5, 5), (1, 18, 3, 3), (2, 2, 3, 3)]}
shapes[sum] = [(1, 5, 5, 4), (1, 5, 5, 18), (1, 5, 5, 9)]
for function, sizes in shapes.items():
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    print(compiled(*[torch.ones(size) for size in sizes]).shape)
"""


def test_the_first_call_of_a_process_may_be_compiled() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_scale_survives_compilation() -> None:
    operands = leaves(DCNV3)
    settings = {**DCNV3.settings, "offset_scale": 0.7}
    function = lambda *o: cudeform.dcnv3(*o, **settings)  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*operands), function(*operands))
