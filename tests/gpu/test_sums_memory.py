"""Sums by the GPU engine: strides, workspace, indices, and the order of the work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hostcuda import HostDevice, Launched
from support.canonical_sums import (
    OPERANDS,
    assert_close,
    attention,
    dcnv3,
    directions,
    expected,
    packed,
)
from support.gpu_sums import OnGpu

from cudeform import gpu
from cudeform.arrays import Gradients
from cudeform.gpu import call, variants
from cudeform.options import Options


@pytest.mark.parametrize("deterministic", [False, True])
def test_packed_offsets_and_masks_are_read_and_written_where_they_lie(
    deterministic: bool, new_device: Any
) -> None:
    """DCNv4's rows: for each group all pairs, then all masks; padded at the end."""
    case = dcnv3(channels=16).cast("float32")
    rows = packed(case, extra=-case.g.groups * 3 * case.g.taps % 8)
    device = new_device()
    options = Options(deterministic=deterministic)
    some, others = OnGpu(device, case, options), OnGpu(device, rows, options)
    assert (some.output() == others.output()).all()
    grads = others.grads()
    for name, grad in some.grads().items():
        assert_close(grads[name], grad, 1e-6, name)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("input", "crop"),
        ("input", "gaps"),
        ("grad_output", "gaps"),
        ("offset", "reversed"),
        ("mask", "broadcast"),
    ],
)
def test_operands_may_have_any_strides(
    name: str, layout: str, deterministic: bool, new_device: Any
) -> None:
    case = dcnv3(channels=16).cast("float32")
    array = getattr(case, name)
    match layout:
        case "reversed":
            changed = np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
        case "crop":
            wide = np.zeros((*array.shape[:2], array.shape[2] + 2, *array.shape[3:]), array.dtype)
            changed = wide[:, :, 1:-1]
            changed[...] = array
        case "gaps":
            wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
            changed = wide[..., ::2]
            changed[...] = array
        case _:
            changed = np.broadcast_to(array[:1, :, :, :1], array.shape)
    case = replace(case, **{name: changed})
    wanted = expected(case)
    on = OnGpu(new_device(), case, Options(deterministic=deterministic))
    assert_close(on.output(), wanted["output"], 2e-6)
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)


@pytest.mark.promise("reproducible")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_deterministic_gradients_are_the_same_bits_for_any_order_and_chunks(
    dtype: str, new_device: Any
) -> None:
    case = attention(channels=16, batch=3, queries=11).cast(dtype, "float32")
    along = directions(case)

    def run(seed: int, limit: int | None) -> list[bytes]:
        options = Options(deterministic=True, workspace_limit=limit)
        on = OnGpu(new_device(seed=seed), case, options)
        arrays = [*on.grads().values(), *on.double(along).values()]
        return [array.tobytes() for array in arrays]

    first = run(0, None)
    assert run(1, None) == first
    assert run(2, 40_000) == first
    with pytest.raises(ValueError, match="workspace_limit must be at least"):
        run(0, 1000)


@pytest.mark.promise("large")
@pytest.mark.parametrize("deterministic", [False, True])
def test_wide_indices_give_the_same_bits(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch, new_device: Any
) -> None:
    case = attention(channels=12).cast("float32")
    along, options = directions(case), Options(deterministic=deterministic)

    def results() -> list[bytes]:
        on = OnGpu(new_device(multiprocessors=1), case, options)
        arrays = [on.output(), on.jvp(along), *on.grads().values(), *on.double(along).values()]
        return [array.tobytes() for array in arrays]

    narrow = results()
    monkeypatch.setattr(variants, "MAX_ELEMENTS_32", 0)
    assert results() == narrow


def test_no_workspace_is_needed_where_the_result_has_the_precision_of_sums() -> None:
    case = attention(channels=16).cast("float32")
    on = OnGpu(HostDevice(), case)
    grads = Gradients(**{name: on.device.put(getattr(case, name)) for name in OPERANDS})
    arguments = (on.operands(), case.g, Options(), on.device.put(case.grad_output), grads)
    size: Any = gpu.workspace_bytes
    assert size(gpu.sums_backward, on.device, *arguments) == 0
    halves = OnGpu(HostDevice(), case.cast("float16"))
    grads = Gradients(input=halves.device.put(halves.case.input))
    arguments = (*arguments[:3], halves.device.put(halves.case.grad_output), grads)
    operands = halves.operands()
    assert size(gpu.sums_backward, halves.device, operands, *arguments[1:]) == (4 * case.input.size)


@pytest.mark.parametrize("deterministic", [False, True])
def test_more_items_than_threads(monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 1)
    case, options = attention(channels=24, queries=31).cast("float32"), Options(deterministic)
    along = directions(case)

    def results(device: HostDevice) -> list[Any]:
        on = OnGpu(device, case, options)
        return [on.output(), on.jvp(along), *on.grads().values(), *on.double(along).values()]

    few = HostDevice(multiprocessors=1)
    got = results(few)
    for some, others in zip(got, results(HostDevice(seed=1)), strict=True):
        assert_close(some, others, 1e-6)
    wanted = expected(case)
    for operand, grad in zip(OPERANDS, got[2:5], strict=True):
        assert_close(grad, wanted[operand], 4e-6, operand)
    assert {did.blocks for did in few.log if isinstance(did, Launched)} == {1}


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_races(monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 2)
    case = attention(channels=8, groups=2).cast("float32")
    device = HostDevice(races=True, multiprocessors=1)
    on = OnGpu(device, case, Options(deterministic=deterministic))
    wanted = expected(case)
    assert_close(on.output(), wanted["output"], 2e-6)
    for operand, grad in on.grads().items():
        assert_close(grad, wanted[operand], 4e-6, operand)
    on.double(directions(case))
