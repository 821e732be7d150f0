"""A plan's workspace: one block that is no larger, within the limit and what memory is free."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import Case
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_engine import everything, forward, geometry
from support.gpu_engine import operands as put
from support.gpu_plans import COLUMNS, DIRECT, planned

from cudeform import engine, gpu
from cudeform.arrays import Gradients, Operands
from cudeform.gpu.replay import launch_plans
from cudeform.gpu.replay.launch_plans import PlanCache
from cudeform.gpu.replay.recorder import BLOCK_ALIGNMENT
from cudeform.options import Options

pytestmark = needs_compiler


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
    assert peak <= block <= peak + BLOCK_ALIGNMENT * len(pieces)


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
    monkeypatch.setattr("cudeform.gpu.chunks.MIN_DEFAULT", 1)
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
    with planned(), mock.patch.object(launch_plans, "MEMORY_LIMITED_CALLS", 3):
        made = []
        with mock.patch.object(launch_plans, "_record", wraps=launch_plans._record) as recorded:
            for _ in range(10):
                forward(device, case)
                made.append(recorded.call_count)
        assert made == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    device = Counting()
    with (
        planned(),
        mock.patch.object(launch_plans, "MEMORY_LIMITED_CALLS", 3),
        mock.patch.object(Counting, "free_bytes", return_value=2**40),
        mock.patch.object(launch_plans, "_record", wraps=launch_plans._record) as recorded,
    ):
        for _ in range(10):
            forward(device, case)
        assert recorded.call_count == 1


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    """A sticky CUDA error shows up in whatever call comes next, an allocation for example."""
    case, device = COLUMNS.cast("float32"), Counting()
    with planned():
        run, grads = call(device, case)
        run(grads)
        before = len(device.log)
        with (
            mock.patch.object(Counting, "allocate", side_effect=RuntimeError("illegal address")),
            pytest.raises(RuntimeError, match="illegal address"),
        ):
            run(grads)
        assert len(device.log) == before


def test_a_device_says_how_it_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMemoryError(RuntimeError):
        pass

    monkeypatch.setattr(Counting, "out_of_memory", (MemoryError, NoMemoryError))
    case, device = COLUMNS.cast("float32"), Counting()
    with planned():
        run, grads = call(device, case)
        run(grads)
        allocate, errors = device.allocate, [NoMemoryError("full")]

        def allocate_the_second_time(nbytes: int) -> Any:
            if errors:
                raise errors.pop()
            return allocate(nbytes)

        monkeypatch.setattr(device, "allocate", allocate_the_second_time)
        run(grads)
        wanted = everything(HostDevice(), case)
        for name, grad in grads._asdict().items():
            np.testing.assert_array_equal(device.read(grad), wanted[name])


@pytest.mark.parametrize("case", [COLUMNS, DIRECT], ids=lambda case: case.name)
def test_workspace_is_known_before_a_call(case: Case) -> None:
    case, device = case.cast("float32"), Counting()
    g, ops, options = geometry(case), put(device, case), Options()
    output = device.empty(g.output_shape, "float32")
    described = Operands(**{n: a._replace(pointer=0) for n, a in ops.present().items()})
    before = len(device.allocated)
    with mock.patch.object(launch_plans, "PLANS", PlanCache()):
        nbytes = engine.workspace_bytes(
            engine.forward, described, g, options, output._replace(pointer=0), device=device
        )
        assert (device.log, device.allocated[before:]) == ([], [])
        engine.forward(ops, g, options, output, device)
        assert device.allocated[before:] == ([nbytes] if nbytes else [])
        assert len(launch_plans.PLANS) == 1
