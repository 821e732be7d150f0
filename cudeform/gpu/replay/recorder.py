"""A device that records commands and executes none.

The algorithms compute with pointers to operands and to workspace. The recorder gives each of them a
stand-in pointer. Stand-ins are so far apart that any pointer into or near an array still identifies
the array. ``finish`` converts pointers to (base, distance) addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cudeform.arrays import DeviceArray
from cudeform.gpu.device_api.commands import Address, Command, Step
from cudeform.gpu.device_api.protocol import Hardware

# Distance of two stand-in pointers; every array is smaller.
SPACING = 2**64

# The algorithms may depend on a pointer only modulo this number.
POINTER_ALIGNMENT = 16

# Alignment of the blocks of workspace within the one allocation of a plan.
BLOCK_ALIGNMENT = 256


@dataclass
class Lifetime:
    """Size of a block of workspace, and the part of the recording during which it is in use.

    Attributes:
        nbytes: size of the block.
        start: number of commands that had been recorded when the block was allocated.
        end: number of commands that had been recorded when it was released; None if it was not.
    """

    nbytes: int
    start: int
    end: int | None = None


class Block:
    """Workspace of a recording, released when the last reference to it ends."""

    def __init__(self, recorder: Recorder, lifetime: Lifetime, pointer: int) -> None:
        """Begin the lifetime of a block at a stand-in pointer."""
        self._recorder, self._lifetime, self.pointer = recorder, lifetime, pointer

    def __del__(self) -> None:
        self._lifetime.end = len(self._recorder.recorded)


class Recorder:
    """A ``Device`` that records.

    Attributes:
        recorded: commands and their pointers, in order.
        lifetimes: lifetimes of all blocks of workspace, in the order of their allocation.
        free: the value that ``free_bytes`` returned; None if the algorithms did not read it.
    """

    def __init__(self, hardware: Hardware) -> None:
        """Record for the device that will replay."""
        self._hardware = hardware
        self._operands: list[int] = []  # stand-in pointers
        self.recorded: list[tuple[Command, tuple[int, ...]]] = []
        self.lifetimes: list[Lifetime] = []
        self.free: int | None = None

    @property
    def compute_capability(self) -> int:
        """The value of the device that will replay."""
        return self._hardware.compute_capability

    @property
    def multiprocessors(self) -> int:
        """The value of the device that will replay."""
        return self._hardware.multiprocessors

    def free_bytes(self) -> int:
        """The value of the device that will replay."""
        self.free = self._hardware.free_bytes()
        return self.free

    def stand_in(self, array: DeviceArray | None) -> DeviceArray | None:
        """Give an operand a stand-in pointer with the same alignment.

        This must be done for all operands before workspace is allocated.
        """
        remainder = 0 if array is None else array.pointer % POINTER_ALIGNMENT
        self._operands.append((len(self._operands) + 1) * SPACING + remainder)
        return None if array is None else array._replace(pointer=self._operands[-1])

    def allocate(self, nbytes: int) -> Block:
        """Allocate workspace at a stand-in pointer."""
        lifetime = Lifetime(nbytes, start=len(self.recorded))
        self.lifetimes.append(lifetime)
        return Block(self, lifetime, (len(self._operands) + len(self.lifetimes)) * SPACING)

    def queue(self, command: Command, pointers: Sequence[int]) -> None:
        """Record one command."""
        self.recorded.append((command, tuple(pointers)))

    def finish(self) -> tuple[tuple[Step, ...], int]:
        """Return the recorded steps, and the bytes of the one block of workspace that they need."""
        offsets, nbytes = pack_blocks(self.lifetimes)
        steps = [
            Step(command, tuple(self._address(pointer, offsets) for pointer in pointers))
            for command, pointers in self.recorded
        ]
        return tuple(steps), nbytes

    def _address(self, pointer: int, offsets: Sequence[int]) -> Address:
        """Convert a pointer. The bases are the null pointer, the operands, the workspace."""
        if pointer == 0:
            return 0, 0
        number = (pointer + SPACING // 2) // SPACING  # a distance may be negative
        operands = len(self._operands)
        if number <= operands:
            return number, pointer - self._operands[number - 1]
        return operands + 1, offsets[number - operands - 1] + pointer - number * SPACING


def pack_blocks(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Place blocks in one allocation, so that blocks that are in use at the same time do not
    overlap.

    Strategy: first fit, in the order of allocation.

    Returns:
        The offset of each block, and the bytes of the allocation.
    """
    offsets: list[int] = []
    total = 0
    for lifetime in lifetimes:
        offset = 0
        placed = sorted(zip(lifetimes, offsets, strict=False), key=lambda pair: pair[1])
        for other, start in placed:
            in_use = other.end is None or other.end > lifetime.start
            if in_use and start < offset + lifetime.nbytes and offset < start + other.nbytes:
                offset = -(-(start + other.nbytes) // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT
        offsets.append(offset)
        total = max(total, offset + lifetime.nbytes)
    return offsets, total
