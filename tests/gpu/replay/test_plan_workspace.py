"""The workspace of a plan: one block, as small as possible, planned for the free memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_engine import everything, forward, geometry, operands
from support.gpu_plans import COLUMNS, DIRECT

from cudeform import engine, gpu
from cudeform.arrays import Gradients, Operands
from cudeform.gpu.replay import launch_plans
from cudeform.gpu.replay.launch_plans import PlanCache
from cudeform.gpu.replay.recorder import BLOCK_ALIGNMENT
from cudeform.options import Options

pytestmark = needs_compiler


class NoMemoryError(RuntimeError):
    """What a library other than Python raises without enough memory."""


class CountingDevice(HostDevice):
    """A device that logs allocations.

    Attributes:
        allocated: bytes of each allocation, in order.
        free_asked: how often the engine asked for free memory, as it does to make a plan.
        free: free memory, if it is not the real one.
        errors: what the next allocations raise.
    """

    out_of_memory = (MemoryError, NoMemoryError)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.allocated: list[int] = []
        self.free_asked = 0
        self.free: int | None = None
        self.errors: list[Exception] = []

    def free_bytes(self) -> int:
        self.free_asked += 1
        return super().free_bytes() if self.free is None else self.free

    def allocate(self, nbytes: int) -> Any:
        self.allocated.append(nbytes)
        if self.errors:
            raise self.errors.pop()
        free, self.free = self.free, None
        asked = self.free_asked
        memory = super().allocate(nbytes)
        self.free, self.free_asked = free, asked
        return memory


class Backward:
    """A backward on a device, whose arrays exist before the first call."""

    def __init__(self, device: HostDevice, case: Case, options: Options | None = None) -> None:
        self.device, self.ops = device, operands(device, case)
        shapes = {name: array.shape for name, array in self.ops.present().items()}
        self.grad_output = device.put(case.grad_output)
        grads = {name: device.empty(shape, case.input.dtype.name) for name, shape in shapes.items()}
        self.grads = Gradients(**grads)
        self.rest = geometry(case), options or Options(), self.grad_output, self.grads

    def unplanned(self) -> None:
        gpu.backward(self.device, self.ops, *self.rest)

    def planned(self) -> None:
        engine.backward(self.ops, *self.rest, self.device)

    def assert_agrees(self, case: Case) -> None:
        wanted = everything(HostDevice(), case)
        for name, grad in self.grads._asdict().items():
            np.testing.assert_allclose(self.device.read(grad), wanted[name], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("plans")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", [COLUMNS, DIRECT], ids=lambda case: case.name)
def test_one_block_that_is_no_larger(case: Case, deterministic: bool) -> None:
    device = CountingDevice()
    call = Backward(device, case.cast("float32"), Options(deterministic=deterministic))
    arrays, device.peak_bytes = device.peak_bytes, 0
    device.allocated.clear()
    call.unplanned()
    blocks, peak = len(device.allocated), device.peak_bytes - arrays
    call.planned()
    device.allocated.clear()
    call.planned()
    [block] = device.allocated
    assert peak <= block <= peak + BLOCK_ALIGNMENT * blocks


@pytest.mark.usefixtures("plans")
def test_the_limit_is_refused_in_the_same_words() -> None:
    case, device, options = COLUMNS.cast("float32"), HostDevice(), Options(workspace_limit=1)
    texts = set()
    for planned in (False, True, True):
        with pytest.raises(ValueError, match="workspace_limit must be") as error:
            forward(device, case, options, planned=planned)
        texts.add(str(error.value))
    assert len(texts) == 1


@pytest.mark.parametrize("error", [MemoryError, NoMemoryError])
def test_exhausted_memory_makes_a_smaller_plan(
    plans: PlanCache, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr("cudeform.gpu.chunks.MIN_DEFAULT", 1)
    case, device = COLUMNS.cast("float32"), CountingDevice()
    call = Backward(device, case)
    device.allocated.clear()
    call.planned()
    [block] = device.allocated
    device.free, device.errors = 2 * block, [error()]
    call.planned()
    assert device.allocated[1] == block > device.allocated[2]
    assert len(plans) == 1
    call.assert_agrees(case)
    device.errors = [error(), error()]  # nor does the smaller plan fit
    with pytest.raises(error):
        call.planned()


@pytest.mark.usefixtures("plans")
def test_an_error_that_is_not_about_memory_is_raised() -> None:
    """A sticky CUDA error of an earlier kernel appears in any later call, such as an allocation."""
    device = CountingDevice()
    call = Backward(device, COLUMNS.cast("float32"))
    call.planned()
    executed, planned = len(device.log), device.free_asked
    device.errors = [RuntimeError("an illegal memory access was encountered")]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        call.planned()
    assert (len(device.log), device.free_asked) == (executed, planned)


@pytest.mark.parametrize(
    ("free", "replanned"),
    [(2**30, False), (2**30 + 1, True), (2**30 - 1, False)],
    ids=["as much", "more", "less"],
)
@pytest.mark.usefixtures("plans")
def test_a_plan_made_with_little_free_memory_is_made_again_when_more_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int, replanned: bool
) -> None:
    monkeypatch.setattr(launch_plans, "MEMORY_LIMITED_CALLS", 3)
    case, device = COLUMNS.cast("float32"), CountingDevice()
    device.free = 2**30
    forward(device, case, planned=True)
    device.free = free
    for _ in range(2):
        forward(device, case, planned=True)
        assert device.free_asked == 1
    forward(device, case, planned=True)
    assert device.free_asked == (3 if replanned else 2)  # whether there is more; for the new plan


def test_a_plan_made_with_much_free_memory_is_kept(
    plans: PlanCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_plans, "MEMORY_LIMITED_CALLS", 1)
    case, device = COLUMNS.cast("float32"), CountingDevice()
    for free in (2**40, 2**41):
        device.free = free
        forward(device, case, planned=True)
    assert (len(plans), device.free_asked) == (1, 1)


@pytest.mark.parametrize("case", [COLUMNS, DIRECT], ids=lambda case: case.name)
def test_workspace_is_known_before_the_call(plans: PlanCache, case: Case) -> None:
    case, device = case.cast("float32"), CountingDevice()
    g, ops, options = geometry(case), operands(device, case), Options()
    output = device.empty(g.output_shape, "float32")
    described = Operands(**{n: a._replace(pointer=0) for n, a in ops.present().items()})
    device.allocated.clear()
    nbytes = engine.workspace_bytes(
        engine.forward, described, g, options, output._replace(pointer=0), device=device
    )
    assert (device.log, device.allocated) == ([], [])
    engine.forward(ops, g, options, output, device)
    assert device.allocated == [nbytes]
    assert len(plans) == 1
