"""One and three dimensions by the GPU engine: results of the kernels with other numbers of axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Case, build
from checks import needs_compiler
from hostcuda import HostDevice
from support.axes_cases import CASES, DIRECT, MAIN, SOME, WIDE_LINE, WIDE_VOLUME, by_name
from support.gpu_cases import assert_all_agree, cast
from support.gpu_engine import (
    LoggingDevice,
    NewDevice,
    backward,
    everything,
    geometry,
    launches,
)

from cudeform.gpu import overrides, variants
from cudeform.gpu.algorithms import forward_algorithm
from cudeform.options import Options

DETERMINISTIC = Options(deterministic=True)


@pytest.mark.promise("right", "safe")
@pytest.mark.each_value
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", MAIN, **by_name)
def test_the_definition(new_device: NewDevice, case: Case, deterministic: bool, dtype: str) -> None:
    case, options = cast(case, dtype), Options(deterministic=deterministic)
    assert_all_agree(everything(new_device(), case, options), case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [case for case in CASES if case not in MAIN], **by_name)
def test_the_definition_of_more_cases(new_device: NewDevice, case: Case, dtype: str) -> None:
    case = cast(case, dtype)
    for options in (Options(), DETERMINISTIC):
        assert_all_agree(everything(new_device(), case, options), case)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", [CASES[5], DIRECT[1]], **by_name)
def test_the_other_rule_at_the_border(
    new_device: NewDevice, case: Case, deterministic: bool
) -> None:
    case = cast(case, "float64")
    options = Options(deterministic=deterministic, boundary_grad="zero")
    assert_all_agree(everything(new_device(), case, options), case, "zero")


@pytest.mark.each_value
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", SOME, **by_name)
def test_layouts(new_device: NewDevice, case: Case, layout: str) -> None:
    case = cast(case, "float32")
    assert_all_agree(everything(new_device(), case.laid_out(layout)), case)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_broadcast_along_one_axis(new_device: NewDevice, axis: int) -> None:
    case = cast(CASES[4], "float32")
    thin = {n: np.take(getattr(case, n), [0], axis + 2) for n in ("offset", "mask")}
    wide = {n: np.broadcast_to(array, getattr(case, n).shape) for n, array in thin.items()}
    broadcast = replace(case, **wide)
    assert_all_agree(everything(new_device(), broadcast), broadcast)


@needs_compiler
def test_channels_last_volumes_are_read_where_they_are() -> None:
    device, case = HostDevice(), cast(WIDE_VOLUME, "float32").laid_out("channels last")
    everything(device, case)
    assert launches(device)["channels_last"] == 0


@pytest.mark.promise("large")
@pytest.mark.parametrize(
    "case",
    [WIDE_VOLUME, *(pytest.param(case, marks=pytest.mark.slow) for case in (*SOME[:2], *DIRECT))],
    **by_name,
)
def test_indices_of_64_bits(
    new_device: NewDevice, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setattr(variants, "MAX_ELEMENTS_32", 0)
    case = cast(case, "float32")
    assert_all_agree(everything(new_device(), case), case)
    assert_all_agree(backward(new_device(), case, DETERMINISTIC), case)


@needs_compiler
@pytest.mark.parametrize("case", SOME, **by_name)
def test_the_number_of_axes_is_compiled_in(case: Case) -> None:
    device = LoggingDevice()
    everything(device, cast(case, "float32"), DETERMINISTIC)
    texts = device.texts
    assert f"#define AXES {case.axes}\n" in texts["gather_grad_input"]
    assert "#define AXES 2\n" in texts["scan_cells"]  # the same for any number of axes


@needs_compiler
@pytest.mark.parametrize("case", [WIDE_LINE, WIDE_VOLUME], **by_name)
def test_the_fused_kernel_is_left_out(case: Case) -> None:
    wide = build("wide", size=case.input.shape[2:], channels=16, out_channels=64, batch=1)
    with overrides.force(algorithm="fused"):
        assert forward_algorithm(geometry(wide), "float16", HostDevice()) == "im2col"


def unsqueezed(case: Case) -> Case:
    """An image as a volume of one slice, or a line as an image of one row: the same numbers."""
    batch, _, *out = case.offset.shape
    taps = int(np.prod(case.weight.shape[2:]))
    displacements = case.offset.reshape(batch, -1, taps, case.axes, *out)
    still = np.zeros_like(displacements[:, :, :, :1])
    arrays = {n: getattr(case, n)[:, :, None] for n in ("input", "weight", "mask", "grad_output")}
    arrays["offset"] = np.concatenate([still, displacements], axis=3).reshape(batch, -1, 1, *out)
    return replace(
        case,
        **arrays,
        stride=(1, *case.stride),
        padding=((0, 0), *case.padding),
        dilation=(1, *case.dilation),
    )


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("axes", [1, 2])
def test_a_volume_of_one_slice_is_an_image_and_an_image_of_one_row_a_line(
    new_device: NewDevice, axes: int, deterministic: bool
) -> None:
    sizes: dict[str, Any] = {"size": (7, 6)[:axes], "stride": (2, 1)[:axes]}
    sizes |= {"padding": ((1, 2), (0, 1))[:axes], "dilation": (1, 2)[:axes]}
    case = build("flat", channels=8, groups=2, offset_groups=2, **sizes, out_channels=4)
    case, options = case.cast("float64"), Options(deterministic=deterministic)
    flat = everything(new_device(), case, options)
    deep = everything(new_device(), unsqueezed(case), options)
    n, _, *out = case.offset.shape
    by_axis = deep["offset"].reshape(n, 2, 3**axes, axes + 1, *out)
    deep["offset"] = by_axis[:, :, :, 1:].reshape(case.offset.shape)
    for name, expected in flat.items():
        got = deep[name].reshape(expected.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=name)
