"""The GPU engine agrees with the definition: every case of the CPU engine, and how arrays lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, LAYOUTS, Case, build, named, random_cases
from checks import assert_agrees
from gpu_engine import (
    TestDevice,
    backward,
    everything,
    fits_direct,
    forward,
    through_columns,
    widened,
)
from hostcuda import HostDevice, Launched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Sum, reference

from cudeform.arguments import GRADIENTS
from cudeform.gpu import call, direct
from cudeform.gpu.source import Variant, widest
from cudeform.options import BOUNDARY_GRADS, Options

NewDevice = Callable[..., TestDevice]

# The bias's gradient is a sum of numbers as they came: the columns that it meets are ones.
ROUNDED_ONCE = ("bias",)


@cache
def expected(case: Case, boundary_grad: str = "torchvision") -> dict[str, Sum]:
    return reference(**case.backward_arguments, boundary_grad=boundary_grad)


@cache
def cast(case: Case, dtype: str) -> Case:
    return case.cast(dtype)


def assert_all_agree(
    results: dict[str, Any], case: Case, boundary_grad: str = "torchvision", what: str = ""
) -> None:
    """Compare results with the reference.

    Columns, or their gradients, are rounded to the storage dtype once and sums are once more.
    """
    sums = expected(case, boundary_grad)
    assert results.keys() <= sums.keys()
    for name, array in results.items():
        roundings = 1 if name in ROUNDED_ONCE else 2
        assert_agrees(array, sums[name], f"{case.name}: {name} {what}", roundings=roundings)


# Many channels at a time, every dtype's.
WIDE = [
    build("2 offset groups of 8 channels", channels=16, offset_groups=2, bias=False),
    build("groups of 16 and of 8", channels=48, groups=3, offset_groups=6, out_channels=6, batch=1),
    build("channels for a warp and more", channels=264, size=(4, 4), out_channels=2, batch=1),
    build("40 channels, nan and inf", channels=40, offset="nan and inf", padding=((1, 1), (1, 1))),
]
# Groups of a few channels, all of which go without columns.
DIRECT = [
    build("depthwise, 48 channels", channels=48, groups=48, out_channels=48, offset_groups=3),
    build("depthwise, far", channels=16, groups=16, out_channels=16, offset="far", batch=1),
    build("depthwise, nan", channels=16, groups=16, out_channels=16, offset="nan and inf", batch=1),
    build("16 of 1 to 4", channels=16, groups=16, out_channels=64, bias=False),
    build("16 of 2 to 2", channels=32, groups=16, out_channels=32, offset_groups=2, mask=False),
    build("8 of 3 to 1", channels=24, groups=8, out_channels=8),
    build("16 of 4 to 1", channels=64, groups=16, out_channels=16, offset_groups=4),
]
ALL = [*CASES, *WIDE, *DIRECT]
WAYS = [(case, "chosen") for case in ALL] + [(c, "columns") for c in ALL if fits_direct(c)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("case", "way"), WAYS, ids=[case.name + ", columns" * (way == "columns") for case, way in WAYS]
)
def test_named_cases(new_device: NewDevice, case: Case, way: str, dtype: str) -> None:
    case = cast(case, dtype)
    with through_columns(way == "columns"):
        results = everything(new_device(), case)
    sums = expected(case)
    assert results.keys() == sums.keys()
    if way == "chosen" and fits_direct(case):
        for name, array in results.items():
            assert_agrees(array, sums[name], name)  # there are no columns to round
    assert_all_agree(results, case)


def test_both_ways_are_taken() -> None:
    assert {fits_direct(case) for case in CASES} == {False, True}
    assert all(map(fits_direct, DIRECT))
    assert not any(map(fits_direct, WIDE))


@pytest.mark.parametrize("kind", ["zero", "whole", "half", "far", "nan and inf"])
@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_boundary_grad(new_device: NewDevice, boundary_grad: Any, kind: str) -> None:
    options = Options(boundary_grad=boundary_grad)
    for name in (f"offset {kind}", f"torchvision, offset {kind}"):
        case = named(name).cast("float32")
        for columns in (False, True):
            with through_columns(columns):
                results = everything(new_device(), case, options)
            assert_all_agree(results, case, boundary_grad)


@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_a_mask_of_nan_at_the_edge(new_device: NewDevice, boundary_grad: Any) -> None:
    case = build("nan mask", offset="whole", padding=((1, 1), (1, 1)), batch=1).cast("float32")
    case.mask[:, ::2] = np.nan
    options = Options(boundary_grad=boundary_grad)
    for columns in (False, True):
        with through_columns(columns):
            assert_all_agree(everything(new_device(), case, options), case, boundary_grad)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_sample_one_pixel_outside_does_not_touch_the_image(
    new_device: NewDevice, axis: int, deterministic: bool, columns: bool
) -> None:
    """Not even by zero times infinity."""
    case = build("edge", kernel=(1, 1), groups=4, out_channels=4).cast("float32")
    places = np.indices(case.offset.shape[2:])[axis]
    offset = np.zeros_like(case.offset)
    offset[:, axis] = -1 - places
    case = replace(case, input=np.full_like(case.input, np.inf), offset=offset)
    options = Options(deterministic=deterministic, boundary_grad="mmcv")
    with through_columns(columns):
        results = everything(new_device(), case, options)
    assert (results["output"] == case.bias[:, None, None]).all()
    assert_all_agree(results, case, "mmcv")


def test_boundary_grads_differ() -> None:
    case = named("offset whole").cast("float32")
    one, other = (expected(case, rule)["offset"].value for rule in BOUNDARY_GRADS)
    assert (one != other).any()


random_settings = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    boundary_grad=st.sampled_from(BOUNDARY_GRADS),
    deterministic=st.booleans(),
    flush=st.sampled_from(["start", "end"]),
    seed=st.integers(0, 99),
    skew=st.integers(0, 3),
    columns=st.booleans(),
)
@settings(random_settings, max_examples=120)
def test_random_cases(
    new_device: NewDevice,
    case: Case,
    dtype: str,
    layout: str,
    boundary_grad: Any,
    deterministic: bool,
    flush: str,
    seed: int,
    skew: int,
    columns: bool,
) -> None:
    case = case.cast(dtype).laid_out(layout)
    options = Options(boundary_grad=boundary_grad, deterministic=deterministic)
    with through_columns(columns):
        results = everything(new_device(flush=flush, seed=seed), case, options, skew=skew)
    assert_all_agree(results, case, boundary_grad)


@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    deterministic=st.booleans(),
    flush=st.sampled_from(["start", "end"]),
)
@settings(random_settings, max_examples=25)
def test_random_cases_with_many_channels(
    new_device: NewDevice, case: Case, dtype: str, layout: str, deterministic: bool, flush: str
) -> None:
    case = widened(case, widest(dtype)).cast(dtype).laid_out(layout)
    results = everything(new_device(flush=flush), case, Options(deterministic=deterministic))
    assert_all_agree(results, case)


# ---- how arrays lie ------------------------------------------------------------------------------

VECTORS = build("vectors", channels=16, out_channels=8, groups=2, offset_groups=2)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(new_device: NewDevice, layout: str, dtype: str, deterministic: bool) -> None:
    for case in (VECTORS, named("torchvision, no bias"), *DIRECT[:1], *DIRECT[-1:]):
        case, options = cast(case, dtype), Options(deterministic=deterministic)
        assert_all_agree(everything(new_device(), case.laid_out(layout), options), case)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("skew", [1, 2, 4, 7])
def test_arrays_that_begin_anywhere(new_device: NewDevice, skew: int, layout: str) -> None:
    for case in (VECTORS, *DIRECT):
        case = cast(case, "float16")
        assert_all_agree(everything(new_device(), case.laid_out(layout), skew=skew), case)


def test_broadcast_arrays(new_device: NewDevice) -> None:
    case = VECTORS.cast("float32")
    thin = replace(
        case,
        input=case.input[:1],
        offset=case.offset[:1, :, :1],
        weight=case.weight[:, :1],
        bias=case.bias[:1],
        mask=case.mask[..., :1],
        grad_output=case.grad_output[:, :1],
    )
    shapes = {name: getattr(case, name).shape for name in (*GRADIENTS, "grad_output")}
    arrays = {name: np.broadcast_to(getattr(thin, name), shape) for name, shape in shapes.items()}
    broadcast = replace(case, **arrays)
    assert_all_agree(everything(new_device(), broadcast), broadcast)


def copies(device: HostDevice) -> int:
    return sum(isinstance(did, Launched) and did.kernel == "channels_last" for did in device.log)


class TestChannelsLast:
    """Channels that are neighbours are read where they are."""

    case = VECTORS.cast("float16").laid_out("channels last")

    def test_no_copy(self) -> None:
        device = HostDevice()
        assert_all_agree(everything(device, self.case), self.case)
        assert copies(device) == 0

    def test_nor_of_every_other_pixel(self) -> None:
        device = HostDevice()
        wide = np.repeat(self.case.input.transpose(0, 2, 3, 1), 2, axis=2)
        case = replace(self.case, input=wide[:, :, ::2].transpose(0, 3, 1, 2))
        assert_all_agree({"output": forward(device, case)}, case)
        assert copies(device) == 0

    def test_nor_in_chunks_of_rows(self) -> None:
        device = HostDevice()
        case = self.case
        results = {"output": forward(device, case, Options(workspace_limit=5_500))}
        assert len([did for did in device.log if not isinstance(did, Launched)]) > len(case.input)
        assert_all_agree(results, case)
        assert copies(device) == 0

    def test_a_copy_where_16_bytes_cannot_be_read_at_once(self) -> None:
        device = HostDevice()
        assert_all_agree({"output": forward(device, self.case, skew=1)}, self.case)
        assert copies(device) == 1

    def test_none_where_channels_are_read_one_by_one(self) -> None:
        device = HostDevice()
        case = named("7 channels").cast("float16").laid_out("channels last")
        assert_all_agree({"output": forward(device, case, skew=1)}, case)
        assert copies(device) == 0

    def test_the_other_order_is_copied(self) -> None:
        device = HostDevice()
        forward(device, self.case.laid_out("contiguous"))
        assert copies(device) == 1


# ---- what is compiled in -------------------------------------------------------------------------


# Several blocks of samples.
LARGE = build(
    "large",
    channels=16,
    size=(7, 9),
    out_channels=6,
    groups=2,
    offset_groups=2,
    batch=1,
)
LARGE_DIRECT = build(
    "large, direct",
    channels=16,
    size=(7, 9),
    out_channels=16,
    groups=16,
    offset_groups=2,
    batch=1,
)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, index_bits: int, vector: str) -> dict[str, set[Variant]]:
    """Forces index and vector widths; what was compiled, by name of the module that chose it."""
    seen: dict[str, set[Variant]] = {}

    def force(module: Any) -> None:
        def forced(dtype: str, _: int, most: int, *groups: int) -> Variant:
            variant = Variant(dtype, index_bits, most if vector == "widest" else 1, *groups)
            seen.setdefault(module.__name__.split(".")[-1], set()).add(variant)
            return variant

        monkeypatch.setattr(module, "Variant", forced)

    force(call)
    force(direct)
    return seen


@pytest.mark.parametrize("vector", ["widest", "one"])
@pytest.mark.parametrize("index_bits", [32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant(
    new_device: NewDevice,
    taken: dict[str, set[Variant]],
    dtype: str,
    index_bits: int,
    vector: str,
) -> None:
    wide = widest(dtype) if vector == "widest" else 1
    for case in (cast(LARGE, dtype), cast(LARGE_DIRECT, dtype)):
        assert_all_agree(everything(new_device(), case), case)
    assert taken == {
        "call": {Variant(dtype, index_bits, wide)},
        "direct": {Variant(dtype, index_bits, wide, 1, 1)},
    }
    case = cast(LARGE, dtype)
    assert_all_agree(backward(new_device(), case, Options(deterministic=True)), case)


SMALL_GROUPS = [
    (group_in, group_out)
    for group_in, group_out in product(range(1, direct.MOST_PRODUCT + 1), repeat=2)
    if group_in * group_out <= direct.MOST_PRODUCT
]


@pytest.mark.parametrize(("group_in", "group_out"), SMALL_GROUPS)
def test_every_small_group(new_device: NewDevice, group_in: int, group_out: int) -> None:
    for groups in (3, 8):  # one channel at a time, and vectors
        case = build(
            f"{groups} of {group_in} to {group_out}",
            channels=groups * group_in,
            out_channels=groups * group_out,
            groups=groups,
            batch=1,
        ).cast("float32")
        assert fits_direct(case)
        assert_all_agree(everything(new_device(), case), case)


def test_larger_groups_have_columns() -> None:
    case = build("2 to 3", channels=6, out_channels=9, groups=3)
    assert not fits_direct(case)
    # A group that lies in two offset groups has no one place to sample.
    case = build("across", channels=6, out_channels=3, groups=3, offset_groups=6)
    assert not fits_direct(case)


# ---- needs ---------------------------------------------------------------------------------------

SUBSETS = [subset for size in range(6) for subset in combinations(GRADIENTS, size)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["4 groups, 2 offset groups", "no mask, no bias"])
def test_any_gradients_may_be_asked_for(
    new_device: NewDevice, name: str, deterministic: bool
) -> None:
    case = named(name).cast("float32")
    for needs, columns in product(SUBSETS, (False, True)):
        with through_columns(columns):
            options = Options(deterministic=deterministic)
            grads = backward(new_device(), case, options, needs=needs)
        assert grads.keys() == {name for name in needs if getattr(case, name) is not None}
        assert_all_agree(grads, case, what=f"of {needs}")


def test_nothing_is_done_for_no_gradient() -> None:
    device = HostDevice()
    backward(device, VECTORS.cast("float32"), needs=())
    assert device.log == []


# ---- more work than threads, and none ------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("groups", [2, 24])
def test_more_work_than_one_grid(
    monkeypatch: pytest.MonkeyPatch, groups: int, deterministic: bool
) -> None:
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 2)
    case = build(
        "more than one grid",
        channels=48,
        size=(17, 19),
        out_channels=48,
        padding=((1, 1), (1, 1)),
        groups=groups,
        offset_groups=2,
        batch=3,
    ).cast("float32")
    options = Options(deterministic=deterministic)
    device = HostDevice(multiprocessors=1)
    few = everything(device, case, options)
    launches = [did for did in device.log if isinstance(did, Launched)]
    assert {did.blocks for did in launches} <= {1, 2}
    many = everything(HostDevice(multiprocessors=10_000), case, options)
    for name, array in few.items():
        np.testing.assert_allclose(array, many[name], rtol=1e-4, atol=1e-4, err_msg=name)
        if name != "input" or deterministic:
            assert array.tobytes() == many[name].tobytes(), name


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("groups", [1, 8])
def test_no_races(monkeypatch: pytest.MonkeyPatch, groups: int, deterministic: bool) -> None:
    """One block goes round several times, and threads share samples: every barrier is needed."""
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 1)
    case = build(
        "several rounds",
        channels=16,
        size=(9, 9),
        out_channels=8,
        groups=groups,
        offset_groups=2,
        batch=2,
    ).cast("float32")
    device = HostDevice(races=True, multiprocessors=1)
    assert_all_agree(everything(device, case, Options(deterministic=deterministic)), case)
    kernels = {did.kernel for did in device.log if isinstance(did, Launched)}
    assert ("deform_direct" in kernels) == (groups == 8)


@pytest.mark.parametrize("name", ["torchvision, batch 0", "no output channels"])
def test_an_empty_output_needs_no_launch_and_its_gradients_are_zero(name: str) -> None:
    case, device = named(name).cast("float16"), HostDevice()
    results = everything(device, case)
    assert device.log == []
    assert all((array == 0).all() for array in results.values())


def test_without_input_channels_the_output_is_the_bias(new_device: NewDevice) -> None:
    case = named("no input channels").cast("float32")
    output = forward(new_device(), case)
    assert (output == case.bias[:, None, None]).all()
