"""The two protocols of a device: one for the algorithms, one for the execution of launch plans.

In production the algorithms call ``replay.Recorder``, which is a ``Device``, and the resulting
plan is executed by ``cuda.CupyDevice``, which is an ``Executor``. The tests have a device on the
CPU that is both.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from cudeform.gpu.device_api.commands import Command, Step


class Memory(Protocol):
    """Device memory, released together with the object."""

    @property
    def pointer(self) -> int:
        """Device address, a multiple of 16."""


class Hardware(Protocol):
    """The properties and the memory of one GPU, on which algorithms, grids and chunks depend."""

    @property
    def compute_capability(self) -> int:
        """The compute capability, such as 90 for sm_90."""

    @property
    def multiprocessors(self) -> int:
        """Number of multiprocessors."""

    def free_bytes(self) -> int:
        """Free memory that a call may plan for."""

    def allocate(self, nbytes: int) -> Memory:
        """Allocate memory with undefined contents."""


class Device(Hardware, Protocol):
    """A GPU and a stream. Commands run in the order of the calls, and no call waits for them."""

    def queue(self, command: Command, pointers: Sequence[int]) -> None:
        """Queue one command."""


class Executor(Hardware, Protocol):
    """A GPU and a stream that execute launch plans."""

    @property
    def kind(self) -> Hashable:
        """A value that is equal for devices that can execute each other's plans."""

    @property
    def out_of_memory(self) -> tuple[type[Exception], ...]:
        """The exceptions that ``allocate`` raises only if memory is exhausted."""

    def replay(self, steps: Sequence[Step], bases: Sequence[int], prepared: list[Any]) -> None:
        """Queue the steps of a plan.

        Args:
            steps: the steps, in order.
            bases: 0, the pointers of the operands, and the pointer of the workspace.
            prepared: a list in which the device keeps objects derived from these steps. It is empty
                at first; equal steps always come with the same list.
        """
