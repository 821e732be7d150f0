"""``deterministic=True``: the same bits for any order of blocks and threads, and any memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import DTYPES, Case, build
from hostcuda import HostDevice, Launched
from support.gpu_engine import NewDevice, backward, bits, everything, forward

from cudeform.gpu import call, chunks
from cudeform.options import Options

DETERMINISTIC = Options(deterministic=True)
SEEDS = range(5)

# Displacements that make many samples meet in one cell, also of several blocks.
CROWDED = build(
    "crowded",
    channels=8,
    size=(7, 6),
    out_channels=10,
    groups=2,
    offset_groups=2,
    padding=((1, 1), (1, 1)),
    offset="large",
    batch=3,
)
ONE_CELL = replace(
    CROWDED,
    name="one cell",
    input=CROWDED.input[:, :, :1, :1],
    offset=np.abs(CROWDED.offset) % 0.75,
    padding=((4, 4), (4, 3)),
)
DEPTHWISE = build(
    "depthwise",
    channels=16,
    size=(7, 6),
    out_channels=16,
    groups=16,
    offset_groups=2,
    padding=((1, 1), (1, 1)),
    offset="large",
    batch=3,
)
CASES = [CROWDED, ONE_CELL, DEPTHWISE]


@pytest.mark.promise("reproducible")
@pytest.mark.each_value
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_order_of_blocks_and_threads_does_not_matter(
    new_device: NewDevice, case: Case, dtype: str
) -> None:
    case = case.cast(dtype)
    first = bits(everything(new_device(), case, DETERMINISTIC))
    for seed in SEEDS:
        for multiprocessors in (1, 4):
            device = new_device(seed=seed, multiprocessors=multiprocessors)
            assert bits(everything(device, case, DETERMINISTIC)) == first


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_order_matters_otherwise(case: Case) -> None:
    case = case.cast("float32")
    seen = [bits(backward(HostDevice(seed=seed), case)) for seed in SEEDS]
    assert len({grads["input"] for grads in seen}) > 1
    for name in ("offset", "weight", "bias", "mask"):
        assert len({grads[name] for grads in seen}) == 1


def test_repeated_runs_give_the_same_bits(new_device: NewDevice) -> None:
    case = CROWDED.cast("float16")
    first = bits(everything(new_device(), case, DETERMINISTIC))
    for _ in range(20):
        assert bits(everything(new_device(), case, DETERMINISTIC)) == first


@pytest.mark.parametrize("scratch_bytes", [6_000, 40_000])
def test_workspace_limits_do_not_matter(
    new_device: NewDevice, monkeypatch: pytest.MonkeyPatch, scratch_bytes: int
) -> None:
    monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", scratch_bytes)
    case = CROWDED.cast("float32")
    seen = [
        bits(everything(new_device(seed=i), case, replace(DETERMINISTIC, workspace_limit=limit)))
        for i, limit in enumerate((80_000, 81_001, 2**20, 2**40, None))
    ]
    assert all(other == seen[0] for other in seen)


def test_a_device_with_less_free_memory_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", 20_000)
    monkeypatch.setattr(chunks, "MIN_DEFAULT", 50_000)
    case = CROWDED.cast("float32")
    some, other = (HostDevice(memory=memory) for memory in (2**30, 2**18))
    assert bits(everything(some, case, DETERMINISTIC)) == bits(
        everything(other, case, DETERMINISTIC)
    )


def test_little_free_memory_is_not_refused() -> None:
    case = CROWDED.cast("float32")
    assert (
        backward(HostDevice(memory=2**26), case, DETERMINISTIC).keys()
        == backward(HostDevice(), case, DETERMINISTIC).keys()
    )


def test_the_gradient_of_the_input_does_not_depend_on_the_chunks(
    new_device: NewDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the gradient of the columns does not: here the product that gives it is exact."""
    case = CROWDED.cast("float32")
    case = replace(case, weight=np.round(case.weight), grad_output=np.round(case.grad_output))
    seen, gathers = set(), set()
    for scratch_bytes in (2**26, 60_000, 20_000, 1):
        monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", scratch_bytes)
        device = new_device()
        seen.add(backward(device, case, DETERMINISTIC, needs=("input",))["input"].tobytes())
        if isinstance(device, HostDevice):
            gathers.add(sum(isinstance(d, Launched) for d in device.log))
    assert len(seen) == 1
    assert len(gathers) in (0, 4)


def test_one_gradient_is_the_same_whatever_else_is_needed(new_device: NewDevice) -> None:
    case = CROWDED.cast("float32")
    every = bits(backward(new_device(), case, DETERMINISTIC))
    for name in every:
        alone = backward(new_device(seed=3), case, DETERMINISTIC, needs=(name,))
        assert bits(alone) == {name: every[name]}


def test_forward_is_always_deterministic(
    new_device: NewDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CROWDED.cast("float32")
    first = forward(new_device(), case).tobytes()
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 1)
    for seed in SEEDS:
        assert forward(new_device(seed=seed, multiprocessors=1), case).tobytes() == first
