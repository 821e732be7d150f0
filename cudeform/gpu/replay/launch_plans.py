"""Launch plans: what a call queues is worked out once, and queued again for every call like it.

The engine runs against a ``Recorder`` the first time. What it queues depends neither on the
contents of arrays nor, beyond their alignment, on their addresses. So the plan holds launches with
their structs filled in, addresses as distances from an operand or into the workspace, and the bytes
of workspace, which a later call allocates as one block.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any

from cudeform.arrays import Operands
from cudeform.geometry import Geometry
from cudeform.gpu import overrides
from cudeform.gpu.chunks import FREE_SHARE, MOST_DEFAULT
from cudeform.gpu.device_api.commands import Executor, Step
from cudeform.gpu.device_api.protocol import Device, DeviceArray, Memory
from cudeform.gpu.replay.recorder import GRAIN, Recorder
from cudeform.options import Options

# A training step makes a few dozen different calls.
MOST_PLANS = 512

# Longer plans, of calls in very many chunks, are not held: they would take more memory than time.
MOST_STEPS = 4096

# A plan that had to do with little memory is made anew after so many calls: there may be more now.
TIGHT_CALLS = 64

Arrays = list[DeviceArray | None]


@dataclass
class Plan:
    """What a call queues.

    Attributes:
        steps: in order.
        workspace: bytes, one block for the whole call.
        tight: whether more free memory could have made it another plan.
        calls: how often it was taken.
        used: when it was taken last; larger is later.
        kept: what the device holds for it.
    """

    steps: tuple[Step, ...]
    workspace: int
    tight: bool
    calls: int = 0
    used: int = 0
    kept: list[Any] = field(default_factory=list)


class Plans:
    """The plans that were used last, for any number of threads."""

    def __init__(self, most: int = MOST_PLANS) -> None:
        """Hold so many."""
        self._most = most
        self._held: dict[Hashable, Plan] = {}
        self._clock = count(1)
        self._lock = Lock()

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    def get(self, key: Hashable) -> Plan | None:
        """The plan for a key, if there is one and it is still good."""
        plan = self._held.get(key)
        if plan is None:
            return None
        plan.calls += 1
        plan.used = next(self._clock)
        return None if plan.tight and plan.calls > TIGHT_CALLS else plan

    def put(self, key: Hashable, plan: Plan) -> None:
        """Hold a plan, if it is not too long; the one that nobody asked for the longest goes."""
        if len(plan.steps) > MOST_STEPS:
            return
        plan.used = next(self._clock)
        with self._lock:
            self._held[key] = plan
            if len(self._held) > self._most:
                del self._held[min(self._held, key=lambda held: self._held[held].used)]

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._held.clear()


PLANS = Plans()


def run(
    function: Callable[..., None],
    device: Executor,
    operands: Operands,
    g: Geometry,
    options: Options,
    *rest: Any,
) -> None:
    """Do ``function(device, operands, g, options, *rest)`` by a plan.

    Args:
        function: forward, backward, jvp or double_backward of this package.
        device: where.
        operands: arrays in device memory.
        g: sizes of all arrays.
        options: the choices in force.
        *rest: arrays and tuples of arrays, of which some may be None.
    """
    arrays = _arrays(operands, rest)
    key = _key(function, device, g, options, arrays)
    plan = PLANS.get(key)
    if plan is not None:
        try:
            memory = _workspace(device, plan)
        except device.out_of_memory:
            # Less memory is free than when the plan was made: plan for what is free now.
            plan = None
    if plan is None:
        plan = _recorded(function, device, operands, g, options, rest)
        PLANS.put(key, plan)
        memory = _workspace(device, plan)
    device.replay(plan.steps, _bases(arrays, memory), plan.kept)


def workspace_bytes(
    function: Callable[..., None],
    device: Executor,
    operands: Operands,
    g: Geometry,
    options: Options,
    *rest: Any,
) -> int:
    """Bytes of the one block of workspace that :func:`run` allocates for the same arguments.

    Nothing is queued or allocated. Addresses of arrays matter only by their remainder modulo 16.
    """
    key = _key(function, device, g, options, _arrays(operands, rest))
    plan = PLANS.get(key)
    if plan is None:
        plan = _recorded(function, device, operands, g, options, rest)
        PLANS.put(key, plan)
    return plan.workspace


def _key(
    function: Callable[..., None], device: Executor, g: Geometry, options: Options, arrays: Arrays
) -> Hashable:
    """Everything that a plan depends on."""
    hardware = device.kind, device.compute_capability, device.multiprocessors
    return (function, hardware, g, options, overrides.forced(), *map(_form, arrays))


def _bases(arrays: Arrays, memory: Memory | None) -> list[int]:
    """Addresses that spots are counted from."""
    operands = [0 if array is None else array.pointer for array in arrays]
    return [0, *operands, 0 if memory is None else memory.pointer]


def _workspace(device: Device, plan: Plan) -> Memory | None:
    return device.allocate(plan.workspace) if plan.workspace else None


def _arrays(operands: Operands, rest: Sequence[Any]) -> Arrays:
    """All arrays of a call, in an order that depends on the function alone."""
    o = operands
    arrays = [o.input, o.offset, o.weight, o.bias, o.mask]
    for item in rest:
        if item is None or type(item) is DeviceArray:
            arrays.append(item)
        else:
            arrays += item
    return arrays


def _form(array: DeviceArray | None) -> Hashable:
    """What a plan depends on of an array, beside its sizes, which are Geometry's."""
    return None if array is None else (array.pointer % GRAIN, array.strides, array.dtype)


def _recorded(
    function: Callable[..., None],
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    rest: Sequence[Any],
) -> Plan:
    """A plan for a call."""
    recorder = Recorder(device)
    stand_ins = iter([recorder.stand_in(array) for array in _arrays(operands, rest)])
    names = ("input", "offset", "weight", "bias", "mask")
    theirs = Operands(**{name: next(stand_ins) for name in names})
    others = [
        next(stand_ins)
        if item is None or type(item) is DeviceArray
        else type(item)(*(next(stand_ins) for _ in item))
        for item in rest
    ]
    function(recorder, theirs, g, options, *others)
    steps, workspace = recorder.finish()
    tight = recorder.free is not None and recorder.free * FREE_SHARE < MOST_DEFAULT
    return Plan(steps, workspace, tight)
