"""One and three dimensions by the GPU engine: the kernels with other numbers of axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, HALF_DTYPES, LAYOUTS, Case, build
from checks import needs_compiler, random_like
from hostcuda import HostDevice
from support import cpu_engine
from support.axescases import LINE, VOLUME
from support.gpu_cases import assert_all_agree, cast, least
from support.gpu_engine import (
    LoggingDevice,
    NewDevice,
    backward,
    bits,
    everything,
    forward,
    geometry,
    launches,
    on_host,
)

from cudeform.gpu import chunks, overrides, variants
from cudeform.gpu.algorithms import forward_algorithm
from cudeform.options import Options

DETERMINISTIC = Options(deterministic=True)

# Channels that come in vectors in every dtype; in the volume, an offset group spans two groups.
WIDE_LINE = build("wide line", size=(9,), channels=32, groups=2, offset_groups=2, out_channels=4)
WIDE_VOLUME = build(
    "wide volume",
    batch=1,
    size=(3, 4, 3),
    kernel=(2, 2, 2),
    channels=64,
    groups=4,
    offset_groups=2,
    out_channels=4,
    offset="half",
)
# Lane groups of 1, 2, 4 and 32 threads reduce the dots of eight corners in different ways.
LANES = [
    build(
        f"volume, {channels} channels",
        batch=1,
        size=(2, 3, 4),
        kernel=(1, 2, 1),
        channels=channels,
        out_channels=2,
    )
    for channels in (2, 4, 8, 256)
]
DIRECT = [
    build("line, depthwise", size=(9,), channels=16, groups=16, out_channels=32, offset_groups=2),
    build(
        "volume, depthwise",
        batch=1,
        size=(3, 4, 3),
        kernel=(2, 1, 2),
        channels=16,
        groups=16,
        out_channels=16,
        offset="half",
    ),
    build(
        "volume, groups of 3 to 1",
        batch=1,
        size=(2, 3, 3),
        kernel=(1, 2, 2),
        channels=6,
        groups=2,
        out_channels=2,
    ),
]
KINDS = ("normal", "half", "far", "nan and inf")
CASES = [
    *(build(f"line, offset {kind}", **LINE, offset=kind) for kind in KINDS),
    *(build(f"volume, offset {kind}", **VOLUME, offset=kind) for kind in KINDS),
    build("line, plain", size=(9,), channels=9, mask=False, bias=False),
    build("volume, plain", size=(3, 4, 3), channels=9, mask=False, bias=False, batch=2),
    build("volume of one voxel", size=(1, 1, 1), padding=((1, 1),) * 3, channels=1, batch=1),
    WIDE_LINE,
    WIDE_VOLUME,
    *LANES,
    *DIRECT,
]
SOME = [CASES[0], CASES[4], WIDE_VOLUME, DIRECT[1]]
MAIN = [*SOME, CASES[7], LANES[2]]

by_name = {"ids": lambda case: case.name}


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


@pytest.mark.promise("reproducible")
@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in HALF_DTYPES)]
)
@pytest.mark.parametrize("case", SOME, **by_name)
def test_deterministic_results_have_the_same_bits(
    new_device: NewDevice, case: Case, dtype: str
) -> None:
    case = cast(case, dtype)
    first = bits(everything(new_device(), case, DETERMINISTIC))
    for seed, multiprocessors in ((1, 1), (2, 4)):
        device = new_device(seed=seed, multiprocessors=multiprocessors)
        assert bits(everything(device, case, DETERMINISTIC)) == first


@pytest.mark.parametrize("case", SOME, **by_name)
def test_a_plan_changes_no_bit(new_device: NewDevice, case: Case) -> None:
    case = cast(case, "float32")
    queued, planned = (
        bits(everything(new_device(), case, DETERMINISTIC, planned=planned))
        for planned in (False, True)
    )
    assert queued == planned


@needs_compiler
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", SOME, **by_name)
def test_results_do_not_depend_on_the_chunks(
    monkeypatch: pytest.MonkeyPatch, case: Case, deterministic: bool
) -> None:
    """The smallest chunks are rows of the last axis, or single positions of a line."""
    monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", 1)
    case = cast(case, "float64")
    options = Options(deterministic=deterministic)
    for run in (forward, backward):
        device, limit = HostDevice(), least(run, case, options)
        results = run(device, case, replace(options, workspace_limit=limit))
        assert_all_agree(results if run is backward else {"output": results}, case)
        if run is backward and case not in (cast(each, "float64") for each in DIRECT):
            out = case.grad_output.shape[2:]
            rows = out[0] if case.axes == 1 else int(np.prod(out[:-1]))
            assert launches(device)["deform_backward"] == len(case.input) * rows


@needs_compiler
@pytest.mark.parametrize("run", [forward, backward])
@pytest.mark.parametrize(
    "size", [(12, 14, 16), pytest.param((96, 96, 96), marks=pytest.mark.slow)], ids=str
)
def test_the_limit_holds_in_a_volume(run: Any, size: tuple[int, ...]) -> None:
    """All columns of the volume would take 108 times the memory of its channels and more."""
    case = build(
        "volume", batch=1, size=size, channels=16, out_channels=1, padding=((1, 1),) * 3, mask=False
    ).cast("float32")
    arrays = sum(array.nbytes for array in case.operands.values())
    results = case.grad_output.nbytes + (arrays if run is backward else 0)
    limit = 4 * case.input.nbytes
    device = HostDevice(memory=2**33, seconds=6000.0)
    run(device, case, Options(workspace_limit=limit))
    assert device.peak_bytes - arrays - results <= limit
    assert 27 * case.input.nbytes > 5 * limit


@needs_compiler
@pytest.mark.parametrize("case", [WIDE_LINE, WIDE_VOLUME], **by_name)
def test_the_fused_kernel_is_left_out(case: Case) -> None:
    wide = build("wide", size=case.input.shape[2:], channels=16, out_channels=64, batch=1)
    with overrides.force(algorithm="fused"):
        assert forward_algorithm(geometry(wide), "float16", HostDevice()) == "im2col"


# ---- beside two dimensions -----------------------------------------------------------------------


def unsqueezed(case: Case) -> Case:
    """An image as a volume of one slice, or a line as an image of one row: the same numbers."""
    n, channels, *out = case.offset.shape
    taps, og = int(np.prod(case.weight.shape[2:])), case.mask.shape[1]
    groups = og // taps
    moved = case.offset.reshape(n, groups, taps, case.axes, *out)
    still = np.zeros_like(moved[:, :, :, :1])
    offset = np.concatenate([still, moved], axis=3).reshape(n, -1, 1, *out)
    del channels
    names = ("input", "weight", "mask", "grad_output")
    return replace(
        case,
        offset=offset,
        **{name: getattr(case, name)[:, :, None] for name in names},
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


# ---- second order --------------------------------------------------------------------------------


@pytest.mark.promise("differentiable twice")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("case", "rule"),
    [
        (CASES[0], "one_sided"),
        (CASES[5], "zero"),
        *(
            pytest.param(case, rule, marks=pytest.mark.slow)
            for case in (CASES[1], *SOME[1:], LANES[3])
            for rule in ("one_sided", "zero")
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_tangents_and_double_gradients_are_those_of_the_cpu(
    case: Case, rule: Any, dtype: str, deterministic: bool
) -> None:
    case = cast(case, dtype)
    tangents = random_like(case.operands)
    options = Options(boundary_grad=rule, deterministic=deterministic)
    tangent = cpu_engine.jvp(case, tangents, options)
    results = cpu_engine.double_backward(case, tangents, options)
    got_tangent, got = on_host(case, tangents, options)
    error = 1e-12 if dtype == "float64" else 4e-6
    for mine, theirs in [(got_tangent, tangent), *((got[n], results[n]) for n in got)]:
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=error * abs(theirs).max())


@needs_compiler
def test_deterministic_double_gradients_have_the_same_bits() -> None:
    case = cast(WIDE_VOLUME, "float32")
    tangents = random_like(case.operands)
    runs = [
        bits(on_host(case, tangents, DETERMINISTIC, planned=planned, seed=seed)[1])
        for seed, planned in ((0, False), (1, False), (2, True))
    ]
    assert runs[0] == runs[1] == runs[2]
