"""Owned tiles give the right gradient wherever samples fall and however work is cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, LAYOUTS, OFFSETS, SAME, Case, build, named, random_cases
from checks import assert_agrees, needs_compiler
from hostcuda import HostDevice, Launched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import reference
from support.gpu_cases import cast
from support.gpu_engine import NewDevice, backward, widened
from support.gpu_tiles import LARGE, assert_right, by_name, grad_input, launches

from cudeform.gpu import call, scatter
from cudeform.gpu.device_api.kernel_source import Variant, widest
from cudeform.options import BOUNDARY_GRADS, Options

pytestmark = pytest.mark.usefixtures("owned_tiles")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_cases(new_device: NewDevice, case: Case, dtype: str) -> None:
    assert_right(new_device(), cast(case, dtype))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES)
@by_name
def test_several_tiles(new_device: NewDevice, case: Case, dtype: str, capability: int) -> None:
    device, case = new_device(compute_capability=capability), cast(case, dtype)
    assert_right(device, case)
    if isinstance(device, HostDevice):
        assert len(launches(device)) == 1


@pytest.mark.parametrize("offset", OFFSETS)
def test_displacements_of_every_kind(new_device: NewDevice, offset: str) -> None:
    """Several images, all larger than a window, so that some samples fall beyond."""
    case = build(f"{offset} in tiles", channels=8, size=(20, 19), padding=SAME, offset=offset)
    for dtype in ("float32", "float16"):
        assert_right(new_device(compute_capability=90), cast(case, dtype))


@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_all_gradients_come_out(new_device: NewDevice, boundary_grad: Any) -> None:
    case = named("offset half").cast("float32")
    results = backward(new_device(), case, Options(boundary_grad=boundary_grad))
    sums = reference(**case.backward_arguments, boundary_grad=boundary_grad)
    for name, array in results.items():
        assert_agrees(array, sums[name], name, roundings=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradients_and_masks_that_are_no_numbers_reach_their_pixels(
    new_device: NewDevice, bad: float
) -> None:
    """Also such as sit in the window alone, and such as fall beyond it."""
    for name, offset in product(("grad_output", "mask"), ("small", "large", "whole")):
        case = build(f"bad {offset}", size=(20, 20), padding=SAME, offset=offset, batch=1)
        case = case.cast("float32")
        array = getattr(case, name)
        array[0, 0, 3, 4] = array[0, 0, 17, 18] = bad
        result = grad_input(new_device(), case)
        with scatter.forced("scalar"):
            plain = grad_input(new_device(), case)
        assert not np.isfinite(plain).all()
        np.testing.assert_allclose(result, plain, rtol=1e-4, atol=1e-5)


@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    flush=st.sampled_from(["start", "end"]),
    seed=st.integers(0, 99),
    wide=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_random_cases(
    new_device: NewDevice, case: Case, dtype: str, layout: str, flush: str, seed: int, wide: bool
) -> None:
    case = widened(case, widest(dtype)) if wide else case
    assert_right(new_device(flush=flush, seed=seed), case.cast(dtype).laid_out(layout))


@pytest.mark.parametrize("index_bits", [32, 64])
@pytest.mark.parametrize("vector", ["widest", "one"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant(
    new_device: NewDevice,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    vector: str,
    index_bits: int,
) -> None:
    def variant(dtype: str, _: int, most: int) -> Variant:
        return Variant(dtype, index_bits, most if vector == "widest" else 1)

    monkeypatch.setattr(call, "Variant", variant)
    assert_right(new_device(compute_capability=90), cast(LARGE, dtype))


@needs_compiler
@by_name
def test_no_races(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """One block takes several tiles, and its plans and its window again and again."""
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 1)
    device = HostDevice(races=True, multiprocessors=1, compute_capability=90)
    assert_right(device, cast(case, "float32"))
    [did] = launches(device)
    assert did.blocks == 1


@needs_compiler
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_threads(seed: int) -> None:
    assert_right(HostDevice(seed=seed, multiprocessors=1), cast(LARGE, "float16"))


@needs_compiler
@pytest.mark.parametrize("rows", [False, True])
def test_chunks(rows: bool) -> None:
    """Of whole images, and of rows, of which those behind the first add to what there is."""
    case = replace(LARGE, **{n: np.concatenate([a] * 3) for n, a in batched(LARGE).items()})
    case, device = case.cast("float32"), HostDevice()
    assert_right(device, case, Options(workspace_limit=300_000 if rows else 900_000))
    count = len(launches(device))
    assert count > 3 if rows else count in (2, 3)


def batched(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in ("input", "offset", "mask", "grad_output")}


@needs_compiler
def test_deterministic_calls_gather() -> None:
    device = HostDevice()
    assert_right(device, cast(LARGE, "float32"), Options(deterministic=True))
    assert launches(device) == []
    assert "deform_gather" in {did.kernel for did in device.log if isinstance(did, Launched)}
