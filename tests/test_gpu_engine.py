"""The GPU engine agrees with the definition: every case of the CPU engine, and how arrays lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, LAYOUTS, Case, build, named, random_cases
from checks import assert_agrees
from gpu_engine import TestDevice, backward, everything, forward, widened
from hostcuda import HostDevice, Launched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Sum, reference

from cudeform.geometry import GRADIENTS
from cudeform.gpu import call
from cudeform.gpu.source import Variant, widest
from cudeform.options import BOUNDARY_GRADS, Options

NewDevice = Callable[..., TestDevice]

# The bias's gradient is a sum of numbers as they came: the columns that it meets are ones.
ROUNDED_ONCE = ("bias",)


@cache
def expected(case: Case, boundary_grad: str = "torchvision") -> dict[str, Sum]:
    return reference(**case.backward_arguments, boundary_grad=boundary_grad)


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


# Many channels at a time, every dtype's; the second leaves threads of a warp without a channel.
WIDE = [
    build("2 offset groups of 8 channels", channels=16, offset_groups=2, bias=False),
    build("groups of 16 and of 8", channels=48, groups=3, offset_groups=6, out_channels=6, batch=1),
    build("channels for a warp and more", channels=264, size=(4, 4), out_channels=2, batch=1),
    build("40 channels, nan and inf", channels=40, offset="nan and inf", padding=((1, 1), (1, 1))),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES, *WIDE], ids=lambda case: case.name)
def test_named_cases(new_device: NewDevice, case: Case, dtype: str) -> None:
    case = case.cast(dtype)
    results = everything(new_device(), case)
    assert results.keys() == expected(case).keys()
    assert_all_agree(results, case)


@pytest.mark.parametrize("kind", ["zero", "whole", "half", "far", "nan and inf"])
@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_boundary_grad(new_device: NewDevice, boundary_grad: Any, kind: str) -> None:
    options = Options(boundary_grad=boundary_grad)
    for name in (f"offset {kind}", f"torchvision, offset {kind}"):
        case = named(name).cast("float32")
        assert_all_agree(everything(new_device(), case, options), case, boundary_grad)


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
) -> None:
    case = case.cast(dtype).laid_out(layout)
    options = Options(boundary_grad=boundary_grad, deterministic=deterministic)
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
    for case in (VECTORS, named("torchvision, no bias")):
        case = case.cast(dtype).laid_out(layout)
        assert_all_agree(everything(new_device(), case, Options(deterministic=deterministic)), case)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("skew", [1, 2, 4, 7])
def test_arrays_that_begin_anywhere(new_device: NewDevice, skew: int, layout: str) -> None:
    case = VECTORS.cast("float16").laid_out(layout)
    assert_all_agree(everything(new_device(), case, skew=skew), case)


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
        results = {"output": forward(device, case, Options(workspace_limit=7_000))}
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


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("vector", ["widest", "one"])
@pytest.mark.parametrize("index_bits", [32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant(
    new_device: NewDevice,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    index_bits: int,
    vector: str,
    deterministic: bool,
) -> None:
    taken = set()

    def forced(dtype: str, _: int, most: int) -> Variant:
        variant = Variant(dtype, index_bits, most if vector == "widest" else 1)
        taken.add(variant)
        return variant

    monkeypatch.setattr(call, "Variant", forced)
    options = Options(deterministic=deterministic)
    # Several blocks of samples, and chunks of rows.
    large = build("large", channels=16, size=(9, 13), out_channels=4, offset_groups=2)
    for case in (VECTORS.cast(dtype), large.cast(dtype)):
        assert_all_agree(everything(new_device(), case, options), case)
    assert taken == {Variant(dtype, index_bits, widest(dtype) if vector == "widest" else 1)}


# ---- needs ---------------------------------------------------------------------------------------

SUBSETS = [subset for size in range(6) for subset in combinations(GRADIENTS, size)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["4 groups, 2 offset groups", "no mask, no bias"])
def test_any_gradients_may_be_asked_for(
    new_device: NewDevice, name: str, deterministic: bool
) -> None:
    case = named(name).cast("float32")
    for needs in SUBSETS:
        grads = backward(new_device(), case, Options(deterministic=deterministic), needs=needs)
        assert grads.keys() == {name for name in needs if getattr(case, name) is not None}
        assert_all_agree(grads, case, what=f"of {needs}")


def test_nothing_is_done_for_no_gradient() -> None:
    device = HostDevice()
    backward(device, VECTORS.cast("float32"), needs=())
    assert device.log == []


# ---- more work than threads, and none ------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_more_work_than_one_grid(
    monkeypatch: pytest.MonkeyPatch, seed: int, deterministic: bool
) -> None:
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 2)
    case = build(
        "more than one grid",
        channels=40,
        size=(17, 19),
        out_channels=36,
        padding=((1, 1), (1, 1)),
        groups=2,
        offset_groups=2,
        batch=3,
    ).cast("float32")
    options = Options(deterministic=deterministic)
    device = HostDevice(multiprocessors=1, seed=seed)
    few = everything(device, case, options)
    launches = [did for did in device.log if isinstance(did, Launched)]
    assert {did.blocks for did in launches} <= {1, 2}
    many = everything(HostDevice(multiprocessors=10_000), case, options)
    for name, array in few.items():
        np.testing.assert_allclose(array, many[name], rtol=1e-4, atol=1e-4, err_msg=name)
        if name != "input" or deterministic:
            assert array.tobytes() == many[name].tobytes(), name


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
