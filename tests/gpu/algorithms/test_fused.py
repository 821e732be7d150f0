"""The fused forward: right results for every tile and size; it queues only kernel launches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import LAYOUTS, SAME, Case, build
from checks import assert_agrees, needs_compiler
from hostcuda import HostDevice, Launched
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from reference import reference
from support.gpu_engine import NewDevice, TestDevice, forward, geometry, operands
from tiers import quick

import cudeform
from cudeform import gpu
from cudeform.gpu import overrides
from cudeform.options import Options

CASES = [
    build("16 channels", channels=16, out_channels=5, padding=SAME),
    build("run of 8 channels", channels=48, groups=3, offset_groups=6, out_channels=6, batch=1),
    build("offset groups across groups", channels=48, groups=2, offset_groups=3, out_channels=8),
    build("several channel blocks of a run", channels=96, out_channels=2, size=(3, 4), bias=False),
    build("channel blocks of 40", channels=40, offset="nan and inf", padding=SAME, batch=1),
    build(
        "7x7, batches of 12 taps", channels=8, size=(8, 7), kernel=(7, 7), padding=((3, 3), (3, 2))
    ),
    build("far, without a mask", channels=16, offset="far", padding=SAME, mask=False),
    build("a tap, no bias", channels=24, kernel=(1, 1), batch=3, size=(9, 9), bias=False),
    build("strides", channels=16, stride=(2, 1), dilation=(1, 2), padding=((0, 2), (3, 1))),
    build(
        "concatenated runs", channels=64, groups=2, offset_groups=8, out_channels=4, padding=SAME
    ),
    build("rectangles of positions", channels=8, size=(18, 18), batch=1, out_channels=2),
]
# dtype, and whether TF32 is allowed.
MODES = [("float16", False), ("bfloat16", False), ("float32", False), ("float32", True)]
EVERY_MODE = pytest.mark.parametrize(("dtype", "tf32"), MODES, ids=["f16", "bf16", "f32", "tf32"])

# Relative error of each operand of a product in TF32, at most.
TF32_ROUNDING = 2.0**-10


def run(
    device: TestDevice, case: Case, *, tf32: bool = False, skew: int = 0, limit: int | None = None
) -> NDArray[Any]:
    """The output of a case by the fused kernel."""
    options = Options(allow_tf32=tf32, workspace_limit=limit)
    with overrides.force(algorithm="fused"):
        return forward(device, case, options, skew=skew)


def check(output: NDArray[Any], case: Case, tf32: bool) -> None:
    """Compare with the reference; samples are rounded to the storage dtype once."""
    total = reference(**case.backward_arguments)["output"]
    if not tf32:
        assert_agrees(output, total, case.name, roundings=2)
        return
    finite = np.isfinite(total.value)
    assert_array_equal(output[~finite], total.value[~finite])
    error = abs(output[finite] - total.value[finite])
    assert (error <= 2 * TF32_ROUNDING * total.scale[finite]).all()


def launched(device: HostDevice) -> list[str]:
    return [did.kernel if isinstance(did, Launched) else "product" for did in device.log]


# ---- results -------------------------------------------------------------------------------------


@pytest.mark.each_value
@EVERY_MODE
@pytest.mark.parametrize("case", quick(CASES, 0, 1, 2, 4, 7, 10), ids=lambda case: case.name)
def test_cases(new_device: NewDevice, case: Case, dtype: str, tf32: bool) -> None:
    case = case.cast(dtype)
    for flush, seed in (("end", 0), ("start", 1)):
        check(run(new_device(flush=flush, seed=seed), case, tf32=tf32), case, tf32)


@pytest.mark.slow
@pytest.mark.parametrize("out_channels", [32, 50, 100, 200])
@pytest.mark.parametrize(("dtype", "tf32", "multiprocessors"), [
    *(("float16", False, n) for n in (1, 1000)),
    *(("float32", True, n) for n in (1, 1000)),
    ("float32", False, 1),
])  # fmt: skip
def test_tiles(
    new_device: NewDevice, dtype: str, tf32: bool, multiprocessors: int, out_channels: int
) -> None:
    case = build("", channels=16, out_channels=out_channels, size=(7, 8), kernel=(1, 2))
    case = case.cast(dtype)
    device = new_device(multiprocessors=multiprocessors)
    check(run(device, case, tf32=tf32), case, tf32)


@pytest.mark.parametrize(
    ("dtype", "tf32"),
    [*MODES[:1], *(pytest.param(*mode, marks=pytest.mark.slow) for mode in MODES[1:])],
)
def test_splits_of_the_stages(new_device: NewDevice, dtype: str, tf32: bool) -> None:
    case = build("", channels=128, out_channels=6, groups=2, padding=SAME).cast(dtype)
    device = new_device(multiprocessors=1000)
    check(run(device, case, tf32=tf32), case, tf32)
    if isinstance(device, HostDevice):
        assert launched(device)[-2:] == ["deform_fused", "reduce_split_k"]


@pytest.mark.each_value
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("skew", [0, 1])
def test_layouts(new_device: NewDevice, layout: str, skew: int) -> None:
    case = CASES[1].cast("float16").laid_out(layout)
    check(run(new_device(), case, skew=skew), case, False)


@pytest.mark.parametrize("multiprocessors", [1, 1000])
def test_output_with_channels_last(new_device: NewDevice, multiprocessors: int) -> None:
    case = build("", channels=64, out_channels=6, groups=2, batch=3).cast("float32")
    g, device = geometry(case), new_device(multiprocessors=multiprocessors)
    n, c, h, w = g.output_shape
    output = device.empty((n, c, h, w), "float32", strides=(h * w * c, 1, w * c, c))
    with overrides.force(algorithm="fused"):
        gpu.forward(device, operands(device, case), g, Options(), output)
    check(device.read(output), case, False)


@pytest.mark.parametrize(("channels", "splits"), [(16, 1), (64, 4)])
def test_a_limit_cuts_the_batch(new_device: NewDevice, channels: int, splits: int) -> None:
    case = build("", channels=channels, out_channels=3, batch=5).cast("float32")
    device = new_device(multiprocessors=1000)
    # The packed weight in both terms, two channels-last images, and their partial outputs.
    partial = 4 * splits * 3 * 12 if splits > 1 else 0
    limit = 2 * 32 * channels * 9 * 4 + 2 * (channels * 30 * 4 + partial)
    check(run(device, case, limit=limit), case, False)
    if isinstance(device, HostDevice):
        assert launched(device).count("deform_fused") == 3
        assert launched(device).count("reduce_split_k") == (3 if splits > 1 else 0)


@pytest.mark.each_value
@EVERY_MODE
@pytest.mark.parametrize("offset", ["zero", "whole"])
def test_infinite_inputs_and_weights(
    new_device: NewDevice, offset: str, dtype: str, tf32: bool
) -> None:
    case = build("", channels=16, out_channels=4, batch=1, offset=offset, padding=SAME).cast(dtype)
    case.input[0, 3, 0, 2], case.input[0, 5, 4, 0] = np.inf, np.nan
    case.weight[2, 1, 0, 0] = -np.inf
    case.input[0, 1] = abs(case.input[0, 1]) + 1
    for whole in (case, case.map(np.rint)):  # whole numbers have no lo term
        with np.errstate(invalid="ignore"):
            check(run(new_device(), whole, tf32=tf32), whole, tf32)


# ---- launches and precision ----------------------------------------------------------------------


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", [CASES[1], CASES[5]], ids=lambda case: case.name)
def test_no_races(case: Case, dtype: str) -> None:
    case = case.cast(dtype)
    for multiprocessors in (1, 1000):
        device = HostDevice(races=True, multiprocessors=multiprocessors, seconds=300)
        check(run(device, case), case, False)


@needs_compiler
def test_only_kernels_are_launched() -> None:
    """A CUDA graph can capture the call: CuPy refuses cuBLAS there."""
    device = HostDevice()
    run(device, CASES[0].cast("float16"))
    assert launched(device) == ["pack_weight_fused", "channels_last", "deform_fused"]


@needs_compiler
def test_three_products_lose_little() -> None:
    """The error is at most twice that of sums in float32, although tensor cores truncate sums."""
    case = build("", channels=512, out_channels=32, size=(6, 6), batch=1).cast("float32")
    call = {**case.cast("float64").backward_arguments}
    del call["grad_output"]
    exact = cudeform.deform_conv2d(**call)
    with overrides.force(algorithm="im2col"):
        strict = forward(HostDevice(), case)
    ours = run(HostDevice(), case)
    error, allowed = (np.sqrt(np.mean((a - exact) ** 2)) for a in (ours, strict))
    assert error <= 2 * allowed


@needs_compiler
def test_tf32_is_rounded_not_truncated() -> None:
    """Truncation would make all sums of positive numbers too small."""
    case = build("", channels=32, out_channels=32, offset="zero", bias=False).map(abs)
    exact = reference(**case.cast("float32").backward_arguments)["output"].value
    error = run(HostDevice(), case.cast("float32"), tf32=True) / exact - 1
    assert abs(error.mean()) < 2.0**-14
