"""Launch plans: the commands of a call, recorded once and queued again for every similar call.

The commands of a call depend on sizes, dtypes, strides, options and hardware. They do not depend on
the contents of arrays, and on their pointers only modulo ``POINTER_ALIGNMENT``. So a plan contains
kernel launches with complete structs, pointers as distances from an operand or from the workspace,
and the size of the workspace, which each call allocates as one block.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any, Concatenate, TypeVar

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu import overrides
from cudeform.gpu.chunks import FREE_SHARE, MAX_DEFAULT
from cudeform.gpu.device_api.commands import Step
from cudeform.gpu.device_api.protocol import Device, Executor, Memory
from cudeform.gpu.replay.recorder import POINTER_ALIGNMENT, Recorder
from cudeform.options import Options
from cudeform.sums_geometry import SumGeometry

# Maximum number of plans; a training step makes a few dozen different calls.
MAX_PLANS = 512

# Longer plans are not cached. They belong to calls with very many chunks, for which a cached plan
# would use much memory and save little time.
MAX_STEPS = 4096

# After this many calls, a plan made with little free memory is made again if more is free by then.
MEMORY_LIMITED_CALLS = 64

Arrays = list[DeviceArray | None]

AnyGeometry = TypeVar("AnyGeometry", bound=Geometry | SumGeometry)

# forward, backward, jvp or double_backward of this package, or the same of sums.
Function = Callable[Concatenate[Device, Operands, AnyGeometry, Options, ...], None]


@dataclass
class LaunchPlan:
    """The commands of a call.

    Attributes:
        steps: commands and their pointers, in order.
        workspace: bytes of the one block of workspace.
        planned_for: the free memory for which the plan was made; None if the plan does not depend
            on it.
        calls: number of calls that have used the plan.
        last_used: time stamp of the last use; larger is later.
        prepared: objects that the device has derived from the steps and reuses.
    """

    steps: tuple[Step, ...]
    workspace: int
    planned_for: int | None = None
    calls: int = 0
    last_used: int = 0
    prepared: list[Any] = field(default_factory=list)

    def is_outdated(self, device: Executor) -> bool:
        """Whether more memory is free than when the plan was made; checked once in many calls."""
        if self.planned_for is None or self.calls % MEMORY_LIMITED_CALLS:
            return False
        return device.free_bytes() > self.planned_for


class PlanCache:
    """The most recently used plans, shared by all threads."""

    def __init__(self, capacity: int = MAX_PLANS) -> None:
        """Start with no plan."""
        self._capacity = capacity
        self._plans: dict[Hashable, LaunchPlan] = {}
        self._clock = count(1)
        self._lock = Lock()

    def __len__(self) -> int:
        """Number of plans."""
        return len(self._plans)

    def get(self, key: Hashable) -> LaunchPlan | None:
        """The plan of a key; None if there is none."""
        plan = self._plans.get(key)
        if plan is not None:
            plan.calls += 1
            plan.last_used = next(self._clock)
        return plan

    def put(self, key: Hashable, plan: LaunchPlan) -> None:
        """Add a plan, unless it is too long; remove the least recently used one if necessary."""
        if len(plan.steps) > MAX_STEPS:
            return
        plan.last_used = next(self._clock)
        with self._lock:
            self._plans[key] = plan
            if len(self._plans) > self._capacity:
                del self._plans[min(self._plans, key=lambda key: self._plans[key].last_used)]

    def clear(self) -> None:
        """Remove all plans."""
        with self._lock:
            self._plans.clear()


PLANS = PlanCache()


def run(
    function: Function[AnyGeometry],
    device: Executor,
    operands: Operands,
    g: AnyGeometry,
    options: Options,
    *rest: Any,
) -> None:
    """Execute ``function(device, operands, g, options, *rest)`` by a launch plan.

    Args:
        function: a function of this package.
        device: the device to run on.
        operands: arrays in device memory.
        g: sizes of the call.
        options: the options in force.
        *rest: arrays, or tuples of arrays; each may be None.
    """
    arrays = _flat(operands, rest)
    key = _key(function, device, g, options, arrays)
    plan, memory = PLANS.get(key), None
    if plan is not None and plan.is_outdated(device):
        plan = None
    if plan is not None:
        try:
            memory = _allocate(device, plan)
        except device.out_of_memory:
            plan = None  # less memory is free than when the plan was made: make a plan for less
    if plan is None:
        plan = _record(function, device, operands, g, options, rest)
        PLANS.put(key, plan)
        memory = _allocate(device, plan)
    pointers = [0 if array is None else array.pointer for array in arrays]
    bases = [0, *pointers, 0 if memory is None else memory.pointer]
    device.replay(plan.steps, bases, plan.prepared)


def workspace_bytes(
    function: Function[AnyGeometry],
    device: Executor,
    operands: Operands,
    g: AnyGeometry,
    options: Options,
    *rest: Any,
) -> int:
    """Bytes of the one block of workspace that :func:`run` allocates for the same arguments.

    Nothing is queued or allocated. Pointers of arrays matter only modulo ``POINTER_ALIGNMENT``.
    """
    key = _key(function, device, g, options, _flat(operands, rest))
    plan = PLANS.get(key)
    if plan is None:
        plan = _record(function, device, operands, g, options, rest)
        PLANS.put(key, plan)
    return plan.workspace


def _allocate(device: Executor, plan: LaunchPlan) -> Memory | None:
    return device.allocate(plan.workspace) if plan.workspace else None


def _key(
    function: Function[AnyGeometry],
    device: Executor,
    g: AnyGeometry,
    options: Options,
    arrays: Arrays,
) -> Hashable:
    """The key of a plan: everything that it depends on. Shapes follow from the geometry."""
    hardware = device.kind, device.compute_capability, device.multiprocessors
    layouts = [
        None if a is None else (a.pointer % POINTER_ALIGNMENT, a.strides, a.dtype) for a in arrays
    ]
    return (function, hardware, g, options, overrides.forced(), *layouts)


def _flat(operands: Operands, rest: Sequence[Any]) -> Arrays:
    """All arrays of a call, in a fixed order for each function."""
    o = operands
    arrays = [o.input, o.offset, o.weight, o.bias, o.mask]
    for item in rest:
        if item is None or type(item) is DeviceArray:
            arrays.append(item)
        else:
            arrays += item
    return arrays


def _record(
    function: Function[AnyGeometry],
    device: Executor,
    operands: Operands,
    g: AnyGeometry,
    options: Options,
    rest: Sequence[Any],
) -> LaunchPlan:
    """Run a function against a recorder."""
    recorder = Recorder(device)
    stand_ins = iter([recorder.stand_in(array) for array in _flat(operands, rest)])
    names = ("input", "offset", "weight", "bias", "mask")
    recorded_operands = Operands(**{name: next(stand_ins) for name in names})
    recorded_rest = [
        next(stand_ins)
        if item is None or type(item) is DeviceArray
        else type(item)(*(next(stand_ins) for _ in item))
        for item in rest
    ]
    function(recorder, recorded_operands, g, options, *recorded_rest)
    steps, workspace = recorder.finish()
    free = recorder.free
    memory_limited = free is not None and free * FREE_SHARE < MAX_DEFAULT
    return LaunchPlan(steps, workspace, planned_for=free if memory_limited else None)
