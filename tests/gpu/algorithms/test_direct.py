"""The direct kernels: the convolutions that they support, and their results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, SAME, Case, build, named
from checks import assert_agrees, needs_compiler
from hostcuda import HostDevice
from numpy.testing import assert_array_equal
from reference import reference
from support.gpu_cases import SUBSETS
from support.gpu_engine import (
    NewDevice,
    backward,
    everything,
    geometry,
    launches,
)
from tiers import quick

import cudeform
from cudeform.checks import GRADIENTS
from cudeform.gpu import call
from cudeform.gpu.algorithms import direct
from cudeform.options import BOUNDARY_GRADS, Options


def depthwise(name: str, channels: int, filters: int = 1, **sizes: Any) -> Case:
    out_channels = channels * filters
    return build(name, channels=channels, groups=channels, out_channels=out_channels, **sizes)


DIRECT = [
    depthwise("depthwise, 16 channels", 16, padding=SAME, offset_groups=2),
    depthwise("depthwise, 24 channels, 4 filters", 24, 4, size=(5, 4)),
    depthwise("depthwise, 72 channels, no mask", 72, mask=False, size=(4, 5), bias=False),
    depthwise("depthwise, 5 channels", 5, padding=SAME, stride=(2, 1)),
    depthwise("depthwise, an offset group a channel", 16, offset_groups=16, dilation=(2, 1)),
    depthwise("depthwise, kernel 7x7", 8, size=(8, 7), kernel=(7, 7), padding=((3, 3), (3, 2))),
    depthwise("depthwise, kernel of one tap", 16, kernel=(1, 1), batch=3, size=(9, 9)),
    depthwise("depthwise, far", 16, offset="far", padding=SAME),
    depthwise("depthwise, nan and inf", 16, offset="nan and inf", padding=SAME),
    depthwise("depthwise, whole", 16, offset="whole", padding=SAME),
    build("groups of 2 and 2", channels=32, groups=16, out_channels=32, offset_groups=2),
    build("groups of 4 and 1", channels=48, groups=12, out_channels=12, padding=SAME),
    build("groups of 3 and 1", channels=12, groups=4, out_channels=4, offset_groups=2),
    build("one channel, 4 filters", channels=1, out_channels=4, padding=((2, 1), (0, 2))),
]  # fmt: skip
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES)


def assert_all_agree(results: dict[str, Any], case: Case, boundary_grad: str = "one_sided") -> None:
    """Compare with the reference; nothing is rounded but results."""
    sums = reference(**case.backward_arguments, boundary_grad=boundary_grad)
    assert results.keys() <= sums.keys()
    for name, array in results.items():
        assert_agrees(array, sums[name], f"{case.name}: {name}")


# ---- the rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group_in", "group_out", "supported"),
    [
        *((1, 1, True), (1, 4, True), (2, 2, True), (3, 1, True), (4, 1, True)),
        *((1, 5, False), (2, 3, False), (4, 2, False), (16, 16, False)),
    ],
)
def test_groups_of_few_channels_are_supported(
    group_in: int, group_out: int, supported: bool
) -> None:
    for groups in (1, 6):
        case = build("", channels=group_in * groups, groups=groups, out_channels=group_out * groups)
        assert direct.supports(geometry(case)) == supported


def test_a_group_lies_within_one_offset_group() -> None:
    sizes: Any = {"channels": 8, "groups": 4, "out_channels": 4}
    for offset_groups, supported in ((1, True), (2, True), (4, True), (8, False)):
        assert (
            direct.supports(geometry(build("", **sizes, offset_groups=offset_groups))) == supported
        )


def test_no_channels_are_not_supported() -> None:
    assert not direct.supports(geometry(named("no input channels")))


# ---- results -------------------------------------------------------------------------------------


@pytest.mark.each_value
@EVERY_DTYPE
@pytest.mark.parametrize("case", quick(DIRECT, 0, 3, 6, 8, 10, 13), ids=lambda case: case.name)
def test_named_cases(new_device: NewDevice, case: Case, dtype: str) -> None:
    case = case.cast(dtype)
    assert direct.supports(geometry(case))
    for flush, seed in (("end", 0), ("start", 1)):
        results = everything(new_device(flush=flush, seed=seed), case)
        assert set(results) == {"output", *(n for n in GRADIENTS if getattr(case, n) is not None)}
        assert_all_agree(results, case)


@pytest.mark.parametrize("kind", ["whole", "half", "nan and inf"])
@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_boundary_grad(new_device: NewDevice, boundary_grad: Any, kind: str) -> None:
    case = depthwise("edge", 8, padding=SAME, offset=kind).cast("float32")
    options = Options(boundary_grad=boundary_grad)
    assert_all_agree(everything(new_device(), case, options), case, boundary_grad)


@pytest.mark.each_value
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("skew", [0, 1])
def test_layouts(new_device: NewDevice, layout: str, skew: int) -> None:
    for case in (DIRECT[0], DIRECT[10], DIRECT[12]):
        case = case.cast("float16").laid_out(layout)
        assert_all_agree(everything(new_device(), case, skew=skew), case)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_loop_over_positions(
    new_device: NewDevice, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 1)
    # More splits than a thread of reduce_grad_weight adds up at a time; the last ones are empty.
    monkeypatch.setattr(direct, "SPLIT_POSITIONS", 8)
    monkeypatch.setattr(direct, "MAX_SPLITS", 45)
    case = depthwise("loop", 72, size=(19, 21), offset_groups=3, batch=1).cast("float32")
    device = new_device(seed=seed, multiprocessors=2)
    names = ("input", "offset", "weight", "bias", "mask")
    results, expected = everything(device, case), _by_the_cpu(case)
    for name in ("output", *names):
        scale = abs(expected[name]).max()
        np.testing.assert_allclose(results[name], expected[name], rtol=1e-4, atol=1e-5 * scale)


def _by_the_cpu(case: Case) -> dict[str, Any]:
    arguments = case.cast("float64").backward_arguments
    grads = cudeform.deform_conv2d_backward(**arguments)
    return {"output": cudeform.deform_conv2d(**case.cast("float64").arguments), **grads._asdict()}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("case", [DIRECT[0], DIRECT[12]], ids=lambda case: case.name)
def test_nothing_races(case: Case) -> None:
    case = case.cast("float32")
    assert_all_agree(everything(HostDevice(races=True), case), case)


def test_any_subset_of_gradients(new_device: NewDevice) -> None:
    case = DIRECT[0].cast("float32")
    for needs in SUBSETS:
        grads = backward(new_device(), case, needs=needs)
        assert grads.keys() == set(needs)
        assert_all_agree(grads, case)


# ---- order ---------------------------------------------------------------------------------------


@needs_compiler
def test_sums_of_the_weight_do_not_depend_on_the_order_of_blocks() -> None:
    case = depthwise("order", 16, size=(17, 19), batch=8).cast("float32")
    results = [backward(HostDevice(seed=seed, multiprocessors=seed + 1), case) for seed in range(4)]
    for name in ("weight", "bias", "offset", "mask"):
        for other in results[1:]:
            assert_array_equal(other[name], results[0][name])


@needs_compiler
def test_a_deterministic_gradient_of_the_input_is_gathered() -> None:
    case, options = DIRECT[0].cast("float32"), Options(deterministic=True)
    devices = [HostDevice(seed=seed) for seed in range(3)]
    results = [everything(device, case, options) for device in devices]
    for device in devices:
        done = launches(device)
        assert done["gather_grad_input"] == done["deform_direct"] == 1
        assert done["deform_direct_backward"] == done["deform_direct_grad_weight"] == 0
    for name, array in results[0].items():
        for other in results[1:]:
            assert_array_equal(other[name], array)
