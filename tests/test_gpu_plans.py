"""Launch plans: the same launches and bits from one block of workspace; and when to plan anew."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Case, build, named, random_cases
from gpu_engine import LoggingDevice, TestDevice, backward, everything, forward, geometry
from gpu_engine import operands as put
from hostcuda import HostDevice, Launched, compiler_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cudeform import gpu
from cudeform.gpu import paths, plans, scatter
from cudeform.gpu.plans import Plan, Plans
from cudeform.gpu.recorder import ALIGNMENT, FAR, Life, Recorder, lay_out
from cudeform.operands import Gradients
from cudeform.options import Options

pytestmark = pytest.mark.skipif(compiler_path() is None, reason="needs a C++ compiler")

COLUMNS = build(
    "columns", channels=8, size=(9, 8), out_channels=6, groups=2, offset_groups=2, batch=3
)
DIRECT = build("direct", channels=16, size=(6, 5), out_channels=16, groups=16, batch=2)
WIDE = build("wide", channels=32, size=(6, 5), out_channels=4, offset_groups=2)
FUSED = build("fused", channels=32, size=(6, 5), out_channels=32, batch=1)


@contextmanager
def planned(store: Plans | None = None) -> Iterator[Plans]:
    """Send the engine's calls through plans, held in a store of their own."""
    store = Plans() if store is None else store
    ways = {name: partial(gpu.run, getattr(gpu, name)) for name in ("forward", "backward")}
    with mock.patch.multiple(gpu, **ways), mock.patch.object(plans, "PLANS", store):
        yield store


def another(case: Case) -> Case:
    """A case of the same sizes with other contents."""
    rng = np.random.default_rng(7)
    return case.map(lambda array: rng.permutation(array.ravel()).reshape(array.shape))


def bits(results: dict[str, Any]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in results.items()}


def done(device: HostDevice) -> list[Any]:
    """What a device did, without addresses."""
    return [
        did if isinstance(did, Launched) else (did.m, did.n, did.k, did.batch, did.beta)
        for did in device.log
    ]


# ---- the same ------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [COLUMNS, DIRECT, WIDE], ids=lambda case: case.name)
def test_a_plan_changes_neither_bits_nor_launches(
    case: Case, dtype: str, deterministic: bool
) -> None:
    case, options = case.cast(dtype), Options(deterministic=deterministic)
    direct, device = LoggingDevice(), LoggingDevice()
    wanted = everything(direct, case, options)
    with planned() as store:
        everything(device, another(case), options)
        assert len(store) == 2
        device.log.clear(), device.zeroed.clear()
        got = everything(device, case, options)
        assert len(store) == 2
    assert bits(got) == bits(wanted)
    assert done(device) == done(direct)
    assert device.zeroed == direct.zeroed


def test_the_fused_forward_is_planned() -> None:
    case = FUSED.cast("float16")
    wanted = forward(HostDevice(), case)
    with planned() as store:
        device = HostDevice()
        for _ in range(2):
            device.log.clear()
            assert forward(device, case).tobytes() == wanted.tobytes()
        assert len(store) == 1
    assert "deform_fused" in {did.kernel for did in device.log if isinstance(did, Launched)}


@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layouts=st.lists(st.sampled_from(list(LAYOUTS)), min_size=2, max_size=3),
    deterministic=st.booleans(),
    skews=st.lists(st.integers(0, 8), min_size=2, max_size=3),
    flush=st.sampled_from(["start", "end"]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_calls_that_take_turns(
    case: Case,
    dtype: str,
    layouts: list[str],
    deterministic: bool,
    skews: list[int],
    flush: Any,
) -> None:
    """Whatever two calls have in common, neither takes the other's plan."""
    options = Options(deterministic=deterministic)
    with planned():
        device = HostDevice(flush=flush)
        for _ in range(2):
            for layout, skew in zip(layouts, skews, strict=False):
                laid = case.cast(dtype).laid_out(layout)
                got = everything(device, laid, options, skew=skew)
                with mock.patch.object(plans, "PLANS", Plans()):
                    wanted = everything(HostDevice(flush=flush), laid, options, skew=skew)
                assert bits(got) == bits(wanted)


@pytest.mark.parametrize("deterministic", [False, True])
def test_on_the_device(new_device: Callable[..., TestDevice], deterministic: bool) -> None:
    """Only ordered sums are the same, bit by bit, on a GPU."""
    options = Options(deterministic=True)
    for case in (COLUMNS, WIDE):
        case, device = case.cast("float16"), new_device()
        wanted = everything(device, case, options)
        with planned():
            for _ in range(3):
                assert bits(everything(device, case, options)) == bits(wanted)


# ---- when a plan is another's --------------------------------------------------------------------


def strided(case: Case) -> Case:
    """The same sizes, and an input whose pixels are further apart."""
    last = np.ascontiguousarray(np.moveaxis(case.input, 1, -1))
    return replace(case, input=np.moveaxis(last, -1, 1))


MMCV = Options(boundary_grad="mmcv")
CHANGES: dict[str, Callable[[Case], tuple[Case, Options, dict[str, Any]]]] = {
    "dtype": lambda case: (case.cast("float64"), Options(), {}),
    "strides": lambda case: (strided(case), Options(), {}),
    "alignment": lambda case: (strided(case), Options(), {"skew": 1}),
    "deterministic": lambda case: (case, Options(deterministic=True), {}),
    "boundary_grad": lambda case: (case, MMCV, {}),
    "allow_tf32": lambda case: (case, Options(allow_tf32=True), {}),
    "workspace_limit": lambda case: (case, Options(workspace_limit=40_000), {}),
    "stride": lambda case: (resized(case), Options(), {}),
}


def resized(case: Case) -> Case:
    """The same shapes of input, offset and weight, reached by other padding."""
    return replace(case, padding=((0, 2), (1, 1)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_that_differs_gets_a_plan_of_its_own(change: str) -> None:
    case = build("plan", channels=8, size=(6, 5), out_channels=4, padding=((1, 1), (1, 1)))
    case = replace(case.cast("float32"), offset=np.round(case.offset).astype("float32"))
    other, options, how = CHANGES[change](case)
    wanted = everything(HostDevice(), other, options, **how)
    device = HostDevice()
    with planned() as store:
        plain = everything(device, case)
        if change == "alignment":
            everything(device, other, options)
        before = len(store)
        got = everything(device, other, options, **how)
        assert len(store) > before
        assert bits(got) == bits(wanted)
        assert bits(everything(device, case)) == bits(plain)


def test_what_is_needed_makes_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        for needs in (("input",), ("offset", "mask"), ("weight",), ("bias", "weight")):
            got = backward(device, case, needs=needs)
            assert bits(got) == bits(backward(HostDevice(), case, needs=needs))
    assert len(store) == 8  # four for each device


def test_absent_operands_make_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        for absent in ({}, {"bias": None}, {"mask": None}, {"bias": None, "mask": None}):
            less = replace(case, **absent)
            got, before = forward(device, less), len(store)
            assert got.tobytes() == forward(HostDevice(), less).tobytes()
            assert len(store) == before + 1


def test_a_forced_path_makes_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        forward(device, case)
        with paths.forced("im2col"):
            forward(device, case)
        assert len(store) == 2


def test_a_forced_scatter_makes_another_plan() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store:
        backward(device, case)
        for name in ("gather", "tiles"):
            with scatter.forced(name):
                backward(device, case)
        assert len(store) == 3
    kernels = {did.kernel for did in device.log if isinstance(did, Launched)}
    assert kernels >= {"deform_gather", "deform_tiles"}


def test_functions_do_not_share_plans() -> None:
    case, device = COLUMNS.cast("float32"), LoggingDevice()
    g, ops = geometry(case), put(device, case)

    def one(device: Any, operands: Any, g: Any, options: Any, output: Any) -> None:
        device.fill_zero(output.pointer, 4)

    def other(device: Any, operands: Any, g: Any, options: Any, output: Any) -> None:
        device.fill_zero(output.pointer, 8)

    with planned():
        for function in (one, other, one):
            gpu.run(function, device, ops, g, Options(), ops.input)
    assert device.zeroed == [4, 8, 4]


def test_devices_that_differ_do_not_share_plans() -> None:
    case = COLUMNS.cast("float32")
    few, many = HostDevice(multiprocessors=1), HostDevice(multiprocessors=64)
    few.kind = many.kind = "the same"
    newer = HostDevice(compute_capability=90, multiprocessors=1)
    newer.kind = few.kind
    with planned() as store:
        for device in (few, many, newer):
            forward(device, case)
    assert len(store) == 3


# ---- workspace -----------------------------------------------------------------------------------


class Counting(HostDevice):
    """A device that counts what the engine allocates."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.allocated: list[int] = []
        self.asked = 0
        self.room: int | None = None

    def free_bytes(self) -> int:
        self.asked += 1
        return super().free_bytes()

    def allocate(self, nbytes: int) -> Any:
        self.allocated.append(nbytes)
        if self.room is not None and nbytes > self.room:
            raise MemoryError(f"{nbytes} bytes wanted, {self.room} are free")
        return super().allocate(nbytes)


def call(device: HostDevice, case: Case, options: Options | None = None) -> Any:
    """A backward on a device; its arrays are made first."""
    g, ops = geometry(case), put(device, case)
    grad_output = device.put(case.grad_output)
    grads = {name: device.empty(array.shape, array.dtype) for name, array in ops.present().items()}
    run = partial(gpu.backward, device, ops, g, options or Options(), grad_output)
    return run, Gradients(**grads)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", [COLUMNS, DIRECT], ids=lambda case: case.name)
def test_one_block_that_is_no_larger(case: Case, deterministic: bool) -> None:
    case, options = case.cast("float32"), Options(deterministic=deterministic)
    device = Counting()
    run, grads = call(device, case, options)
    device.peak_bytes, before = 0, len(device.allocated)
    held = device._memory - device.free_bytes()
    run(grads)
    pieces, peak = device.allocated[before:], device.peak_bytes - held
    with planned():
        run, grads = call(device, case, options)
        run(grads)
        asked, before = device.asked, len(device.allocated)
        run(grads)
        [block] = device.allocated[before:]
        assert device.asked == asked + 1  # by the device itself, when it allocates
    assert peak <= block <= peak + ALIGNMENT * len(pieces)


def test_the_limit_is_refused_in_the_same_words() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with pytest.raises(ValueError, match="workspace_limit must be") as plain:
        forward(device, case, Options(workspace_limit=1))
    with planned():
        for _ in range(2):
            with pytest.raises(ValueError, match="workspace_limit must be") as error:
                forward(device, case, Options(workspace_limit=1))
            assert str(error.value) == str(plain.value)


def test_less_memory_makes_a_smaller_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cudeform.gpu.chunks.LEAST_DEFAULT", 1)
    case, device = COLUMNS.cast("float32"), Counting()
    wanted = everything(HostDevice(), case)
    with planned() as store:
        run, grads = call(device, case)
        run(grads)
        [block] = device.allocated[-1:]
        device.room = block - 1
        monkeypatch.setattr(Counting, "free_bytes", lambda self: 2 * block)
        run(grads)
        assert device.allocated[-2] == block > device.allocated[-1]
        assert len(store) == 1
        for name, grad in grads._asdict().items():
            np.testing.assert_allclose(device.read(grad), wanted[name], rtol=1e-5, atol=1e-5)
        device.room = 0
        with pytest.raises(MemoryError):
            run(grads)


def test_a_plan_made_when_memory_was_short_is_made_anew() -> None:
    case, device = COLUMNS.cast("float32"), Counting()
    with planned(), mock.patch.object(plans, "TIGHT_CALLS", 3):
        made = []
        with mock.patch.object(plans, "_recorded", wraps=plans._recorded) as recorded:
            for _ in range(10):
                forward(device, case)
                made.append(recorded.call_count)
        assert made == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    device = Counting()
    with (
        planned(),
        mock.patch.object(plans, "TIGHT_CALLS", 3),
        mock.patch.object(Counting, "free_bytes", return_value=2**40),
        mock.patch.object(plans, "_recorded", wraps=plans._recorded) as recorded,
    ):
        for _ in range(10):
            forward(device, case)
        assert recorded.call_count == 1


def test_the_script_that_measures_the_host() -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "host_time.py"
    command = [sys.executable, str(script), "--calls", "1"]
    done = subprocess.run(command, text=True, capture_output=True, check=True, timeout=120)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["A1", "A4", "B1", "C2", "C4"]
    assert done.stdout.count("deterministic backward") == 5


# ---- the store -----------------------------------------------------------------------------------


def test_the_oldest_plan_goes() -> None:
    store = Plans(most=2)
    one, two, three = (Plan((), 0, tight=False) for _ in range(3))
    store.put("one", one)
    store.put("two", two)
    assert store.get("one") is one
    store.put("three", three)
    assert store.get("two") is None
    assert store.get("one") is one
    assert store.get("three") is three
    assert len(store) == 2
    store.clear()
    assert len(store) == 0


def test_a_plan_of_very_many_steps_is_not_held() -> None:
    case, device = COLUMNS.cast("float32"), HostDevice()
    with planned() as store, mock.patch.object(plans, "MOST_STEPS", 4):
        forward(device, case)
        assert len(store) == 0  # five: weight, images, columns and two products
        wanted = forward(HostDevice(), case)
        assert forward(device, case).tobytes() == wanted.tobytes()
    with planned() as store, mock.patch.object(plans, "MOST_STEPS", 5):
        forward(device, case)
        assert len(store) == 1


def test_many_threads_ask_at_a_time() -> None:
    store = Plans(most=8)

    def use(thread: int) -> None:
        for i in range(2000):
            key = (thread * i) % 20
            if store.get(key) is None:
                store.put(key, Plan((), 0, tight=False))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert len(store) == 8


# ---- the recorder --------------------------------------------------------------------------------

lives = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 9), st.integers(0, 9)).map(
        lambda drawn: Life(drawn[0], min(drawn[1:]), max(drawn[1:]))
    ),
    max_size=12,
).map(lambda drawn: sorted(drawn, key=lambda life: life.born))


@given(lives)
def test_pieces_that_live_together_do_not_overlap(pieces: list[Life]) -> None:
    places, total = lay_out(pieces)
    for i, (one, at) in enumerate(zip(pieces, places, strict=True)):
        assert at % ALIGNMENT == 0
        assert at + one.nbytes <= total
        for two, there in zip(pieces[:i], places, strict=False):
            assert two.died is not None
            if two.died > one.born:
                assert at + one.nbytes <= there or there + two.nbytes <= at
    assert total <= sum(-(-life.nbytes // ALIGNMENT) * ALIGNMENT for life in pieces)


def test_a_piece_takes_the_place_of_one_that_is_gone() -> None:
    lives = [Life(1000, 0, 2), Life(500, 0, 4), Life(900, 2, 4), Life(100, 3), Life(10, 9)]
    assert lay_out(lives) == ([0, 1024, 0, 1536, 0], 1636)


def test_addresses_are_told_apart_however_far_they_are_moved() -> None:
    device, recorder = HostDevice(), Recorder(HostDevice())
    arrays = [device.put(np.zeros(4, "float16"), skew=skew) for skew in (0, 3)]
    one, two = map(recorder.stand_in, arrays)
    assert one is not None
    assert two is not None
    assert [a.pointer % 16 for a in (one, two)] == [a.pointer % 16 for a in arrays]
    none = recorder.stand_in(None)
    assert none is None
    first, second = recorder.allocate(100), recorder.allocate(300)
    kernel: Any = "kernel"
    addresses = [
        *(0, one.pointer + 2**40, one.pointer - 2**40, two.pointer - 6),
        *(first.pointer, second.pointer + 299),
    ]
    recorder.launch(kernel, 1, 32, addresses, np.zeros(1))
    recorder.fill_zero(second.pointer + 8, 16)
    steps, workspace = recorder.finish()
    launch, fill = (step.spots for step in steps)  # type: ignore[attr-defined]
    assert launch == ((0, 0), (1, 2**40), (1, -(2**40)), (2, -6), (4, 0), (4, 256 + 299))
    assert fill == ((4, 256 + 8),)
    assert workspace == 256 + 300
    assert FAR > 2**63


def test_a_piece_ends_when_nobody_holds_it() -> None:
    recorder = Recorder(HostDevice())
    first = recorder.allocate(1000)
    recorder.fill_zero(first.pointer, 8)
    second = recorder.allocate(500)
    recorder.fill_zero(second.pointer, 8)
    del first
    third = recorder.allocate(900)
    recorder.fill_zero(third.pointer, 8)
    steps, workspace = recorder.finish()
    assert [step.spots for step in steps] == [((1, 0),), ((1, 1024),), ((1, 0),)]  # type: ignore[attr-defined]
    assert workspace == 1524


def test_a_batch_that_runs_backwards() -> None:
    """Parts of such arrays begin before the address of their first element."""
    case = named("batch 37").cast("float32").map(lambda array: array[::-1])
    with planned():
        device = HostDevice()
        options = Options(workspace_limit=50_000)
        results = [bits(everything(device, case, options)) for _ in range(2)]
    assert results[0] == results[1] == bits(everything(HostDevice(), case, options))
