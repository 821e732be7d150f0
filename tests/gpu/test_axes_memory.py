"""One and three dimensions by the GPU engine: chunks, and workspace within its limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import Case, build
from checks import needs_compiler
from hostcuda import HostDevice
from hostcuda.views import contiguous
from support.axes_cases import SOME, by_name
from support.gpu_cases import assert_all_agree, cast, least
from support.gpu_engine import (
    backward,
    fits_direct,
    forward,
    geometry,
    launches,
)

from cudeform import gpu
from cudeform.arrays import DeviceArray, DoubleGradients, Gradients, Operands, Tangents
from cudeform.gpu import chunks
from cudeform.options import Options


@needs_compiler
@pytest.mark.each_value
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", SOME, **by_name)
def test_results_do_not_depend_on_the_chunks(
    monkeypatch: pytest.MonkeyPatch, case: Case, deterministic: bool, layout: str
) -> None:
    """The smallest chunks are rows of the last axis, or single positions of a line."""
    monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", 1)
    plain = cast(case, "float64")
    case, options = plain.laid_out(layout), Options(deterministic=deterministic)
    for run in (forward, backward):
        device, limit = HostDevice(), least(run, case, options)
        results = run(device, case, replace(options, workspace_limit=limit))
        assert_all_agree(results if run is backward else {"output": results}, plain)
        if run is backward and (deterministic or not fits_direct(case)):
            out = case.grad_output.shape[2:]
            rows = out[0] if case.axes == 1 else int(np.prod(out[:-1]))
            assert launches(device)["deform_backward"] == len(case.input) * rows


def volume(*size: int) -> Case:
    """A volume of 16 channels, whose columns have 27 times as many elements."""
    padding = ((1, 1),) * 3
    return build("volume", batch=1, size=size, channels=16, padding=padding, mask=False)


@needs_compiler
@pytest.mark.parametrize(
    ("run", "size"),
    [
        (forward, (12, 14, 16)),
        (backward, (12, 14, 16)),
        pytest.param(forward, (64, 64, 64), marks=pytest.mark.slow),
    ],
)
def test_the_limit_holds_in_a_volume(run: Any, size: tuple[int, ...]) -> None:
    case, device = volume(*size).cast("float32"), HostDevice(memory=2**33, seconds=3600.0)
    operands = sum(array.nbytes for array in case.operands.values())
    results = case.grad_output.nbytes + (operands if run is backward else 0)
    limit = 4 * case.input.nbytes
    run(device, case, Options(workspace_limit=limit))
    assert device.peak_bytes - operands - results <= limit


@needs_compiler
@pytest.mark.promise("bounded memory")
@pytest.mark.parametrize(
    "deterministic",
    [False, pytest.param(True, marks=pytest.mark.slow)],  # a plan of 100 000 launches
)
def test_plans_for_a_large_volume_stay_within_the_limit(deterministic: bool) -> None:
    """Of 96 voxels along each axis: 54 MiB, where all columns would take 1.4 GiB."""
    g = replace(geometry(volume(4, 4, 4)), size=(96,) * 3, out=(96,) * 3)
    shapes = (g.input_shape, g.offset_shape, g.weight_shape, (g.out_channels,))
    operands = Operands(*map(array_of, shapes))
    input, offset, weight, *_ = operands
    grad_output = array_of(g.output_shape)
    calls: dict[Any, tuple[Any, ...]] = {
        gpu.forward: (grad_output,),
        gpu.backward: (grad_output, Gradients(*operands)),
        gpu.jvp: (Tangents(*operands), grad_output),
        gpu.double_backward: (
            grad_output,
            Tangents(*operands),
            DoubleGradients(grad_output, input, offset, weight),
        ),
    }
    limit = 2**28
    options = Options(deterministic=deterministic, workspace_limit=limit)
    device = HostDevice(memory=2**36)
    for function, arrays in calls.items():
        planned = gpu.workspace_bytes(function, device, operands, g, options, *arrays)
        assert 0 < planned <= limit, function.__name__


def array_of(shape: tuple[int, ...]) -> DeviceArray:
    """A contiguous array that does not exist."""
    return DeviceArray(4096, shape, contiguous(shape), "float32")
