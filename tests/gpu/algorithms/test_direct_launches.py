"""The direct kernels: launches, workspace and bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import SAME, build
from checks import assert_agrees, needs_compiler
from hostcuda import HostDevice
from reference import reference
from support.gpu_cases import least
from support.gpu_engine import (
    LoggingDevice,
    backward,
    bytes_moved,
    everything,
    forward,
    geometry,
    launches,
)

from cudeform.checks import GRADIENTS
from cudeform.options import Options

pytestmark = needs_compiler

CASE = build("depthwise", channels=16, groups=16, out_channels=16, padding=SAME, offset_groups=2)
CHUNKS = build("chunks", channels=8, groups=8, out_channels=8, size=(6, 5), batch=5, padding=SAME)
BYTES = build(
    "bytes",
    channels=64,
    groups=64,
    out_channels=64,
    size=(10, 12),
    stride=(2, 2),
    offset_groups=2,
)


def test_forward_launches() -> None:
    device, case = LoggingDevice(), CASE.cast("float32")
    forward(device, case)
    assert launches(device) == {"channels_last": 2, "deform_direct": 1}  # input and weight
    device = LoggingDevice()
    forward(device, case.laid_out("channels last"))
    assert launches(device) == {"channels_last": 1, "deform_direct": 1}
    assert device.zeroed == []


def test_backward_launches() -> None:
    device, case = LoggingDevice(), CASE.cast("float32")
    backward(device, case)
    assert launches(device) == {
        "channels_last": 3,
        "deform_direct_backward": 1,
        "deform_direct_grad_weight": 1,
        "reduce_grad_weight": 1,
        "channels_first": 1,
    }
    assert device.zeroed == [case.input.nbytes]
    for needs, kernels in {
        ("weight", "bias"): {
            "deform_direct_grad_weight": 1,
            "reduce_grad_weight": 1,
            "channels_last": 2,
        },
        ("offset", "mask"): {"deform_direct_backward": 1, "channels_last": 3},
    }.items():
        device = LoggingDevice()
        backward(device, case, needs=needs)
        assert launches(device) == kernels
        assert device.zeroed == []


def test_channels_last_needs_no_workspace_but_the_weight() -> None:
    case = CASE.cast("float16").laid_out("channels last")
    device = HostDevice()
    forward(device, case)
    given = sum(getattr(case, name).nbytes for name in ("grad_output", *GRADIENTS))
    assert device.peak_bytes == given + case.weight.nbytes


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_chunks_of_the_least_workspace(share: float) -> None:
    case = CHUNKS.cast("float64")
    sums = reference(**case.backward_arguments)
    for run, kernel in ((forward, "deform_direct"), (backward, "deform_direct_backward")):
        limit = least(run, case, Options()) + int(share * 20_000)
        device = HostDevice()
        results = run(device, case, Options(workspace_limit=limit))
        for name, array in (results if run is backward else {"output": results}).items():
            assert_agrees(array, sums[name], name)
        assert launches(device)[kernel] > 1 or share > 0
        given = sum(getattr(case, name).nbytes for name in ("grad_output", *GRADIENTS))
        taken = given if run is forward else 2 * given
        assert device.peak_bytes - taken <= limit


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_no_corner_is_read_twice(dtype: str) -> None:
    # Every window leaves a row and a column, so that all corners lie in the image.
    offset = np.clip(abs(BYTES.offset) % 1, 0.125, 0.875)
    case = replace(BYTES, offset=offset).cast(dtype)
    g, itemsize = geometry(case), case.input.itemsize
    positions = g.batch * g.out_pixels * g.channels * itemsize
    samples = positions * g.taps
    device = HostDevice()
    everything(device, case)
    corners, weight, grad_output = 4 * samples, samples, samples
    assert bytes_moved(device, "deform_direct")[0] == corners + weight
    loaded, _, added = bytes_moved(device, "deform_direct_backward")
    assert loaded == corners + weight + grad_output
    assert added == corners * 4 // itemsize  # float32
    assert bytes_moved(device, "deform_direct_grad_weight")[0] == corners + grad_output + positions
