"""A window of a call, with padding that may be negative, gives the same part of the result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import build, exact
from support.gpu_engine import NewDevice, geometry, operands, through_columns
from support.gpu_engine import backward as whole_backward
from support.gpu_engine import forward as whole_forward

from cudeform import gpu
from cudeform.arrays import Gradients
from cudeform.options import Options

CASE = exact(
    build(
        "GPU, window",
        size=(17, 19),
        channels=4,
        out_channels=4,
        offset_groups=2,
        stride=(2, 1),
        padding=((1, 1), (2, 0)),
        dilation=(1, 2),
    )
)
CASE = replace(CASE, offset=np.clip(CASE.offset, -2, 2))
OUT = ((2, 6), (5, 12))
READ = ((1, 16), (1, 19))  # rows 2*2 - 1 - 2 to 5*2 - 1 + 2 + 2 + 2, columns likewise
ROWS, COLS = (slice(*span) for span in OUT)
TOP, LEFT = (slice(*span) for span in READ)


def part() -> Any:
    """The arrays of the part."""
    there = {
        name: getattr(CASE, name)[:, :, ROWS, COLS] for name in ("offset", "mask", "grad_output")
    }
    return replace(CASE, input=CASE.input[:, :, TOP, LEFT], **there)


def window() -> Any:
    g = geometry(CASE).window(2, OUT, READ)
    assert min(g.pad_begin) < 0
    return g


@pytest.mark.parametrize("columns", [False, True])
def test_forward(new_device: NewDevice, columns: bool) -> None:
    device = new_device()
    g, ops = window(), operands(device, part())
    output = device.empty(g.output_shape, "float32")
    with through_columns(columns):
        gpu.forward(device, ops, g, Options(), output)
    wanted = whole_forward(new_device(), CASE)[:, :, ROWS, COLS]
    np.testing.assert_array_equal(device.read(output), wanted)


@pytest.mark.parametrize("deterministic", [False, True])
def test_backward(new_device: NewDevice, deterministic: bool) -> None:
    """The whole call gets a gradient of the output that is 0 outside of the part."""
    device, options = new_device(), Options(deterministic=deterministic)
    g, case = window(), part()
    ops = operands(device, case)
    grads = Gradients(**{name: device.empty(a.shape, a.dtype) for name, a in ops.present().items()})
    gpu.backward(device, ops, g, options, device.put(case.grad_output), grads)
    masked = np.zeros_like(CASE.grad_output)
    masked[:, :, ROWS, COLS] = case.grad_output
    wanted = whole_backward(new_device(), replace(CASE, grad_output=masked), options)
    indices = {"input": (TOP, LEFT), "offset": (ROWS, COLS), "mask": (ROWS, COLS)}
    for name, array in grads._asdict().items():
        index = (slice(None), slice(None), *indices[name]) if name in indices else ()
        np.testing.assert_array_equal(device.read(array), wanted[name][index], err_msg=name)
