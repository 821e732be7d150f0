"""A device that does nothing and writes down what it was asked for.

Addresses it hands out are so far apart that one of them, moved by any distance inside an array,
still tells where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from cudeform.gpu.device_api.commands import Fill, Launch, Product, Spot, Step
from cudeform.gpu.device_api.protocol import Device, DeviceArray, Gemm, Kernel

# Distance of places: no array is as large.
FAR = 2**64

# Of an operand's address, the engine may look at the rest by this, and at nothing else.
GRAIN = 16

# Where pieces of workspace begin in their block.
ALIGNMENT = 256


@dataclass
class Life:
    """A piece of workspace: its bytes, and the steps between which somebody held it."""

    nbytes: int
    born: int
    died: int | None = None


class Piece:
    """Workspace of a recording; its life ends when nobody holds it any more."""

    def __init__(self, recorder: Recorder, life: Life, pointer: int) -> None:
        """Begin to live."""
        self._recorder, self._life, self.pointer = recorder, life, pointer

    def __del__(self) -> None:
        """End."""
        self._life.died = len(self._recorder.asked)


class Recorder:
    """A ``Device`` that records for another one.

    Attributes:
        asked: what was asked for, in order: a kind of step, its addresses, and the rest of it.
        lives: pieces of workspace.
        free: memory that was free when the engine asked, None if it did not.
    """

    def __init__(self, device: Device) -> None:
        """Record for ``device``."""
        self._device = device
        self._first: list[int] = []
        self.asked: list[tuple[type[Any], tuple[int, ...], dict[str, Any]]] = []
        self.lives: list[Life] = []
        self.free: int | None = None

    @property
    def compute_capability(self) -> int:
        """That of the device."""
        return self._device.compute_capability

    @property
    def multiprocessors(self) -> int:
        """Those of the device."""
        return self._device.multiprocessors

    def stand_in(self, array: DeviceArray | None) -> DeviceArray | None:
        """The next operand, at an address that stands for its own and is aligned as that is.

        All operands come before the first piece of workspace.
        """
        rest = 0 if array is None else array.pointer % GRAIN
        self._first.append((len(self._first) + 1) * FAR + rest)
        return None if array is None else array._replace(pointer=self._first[-1])

    def free_bytes(self) -> int:
        """Memory of the device that could be allocated now."""
        self.free = self._device.free_bytes()
        return self.free

    def allocate(self, nbytes: int) -> Piece:
        """An address that stands for workspace."""
        life = Life(nbytes, born=len(self.asked))
        self.lives.append(life)
        return Piece(self, life, (len(self._first) + len(self.lives)) * FAR)

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        """Record zeros."""
        self.asked.append((Fill, (pointer,), {"nbytes": nbytes}))

    def launch(
        self,
        kernel: Kernel,
        blocks: int,
        threads: int,
        pointers: Sequence[int],
        params: NDArray[Any],
        shared_bytes: int = 0,
    ) -> None:
        """Record a launch."""
        what = {
            "kernel": kernel,
            "blocks": blocks,
            "threads": threads,
            "params": params,
            "shared_bytes": shared_bytes,
        }
        self.asked.append((Launch, tuple(pointers), what))

    def gemm(self, gemm: Gemm, pointers: Sequence[int] | None = None) -> None:
        """Record a product."""
        addresses = gemm.pointers if pointers is None else tuple(pointers)
        self.asked.append((Product, addresses, {"gemm": gemm}))

    def finish(self) -> tuple[tuple[Step, ...], int]:
        """What was recorded, and the bytes of workspace that it takes in one block."""
        places, nbytes = lay_out(self.lives)
        steps = [
            kind(spots=tuple(self._spot(address, places) for address in addresses), **what)
            for kind, addresses, what in self.asked
        ]
        return tuple(steps), nbytes

    def _spot(self, address: int, places: Sequence[int]) -> Spot:
        """Which base an address belongs to, operands from 1 and then the workspace; how far."""
        if address == 0:
            return 0, 0
        number = (address + FAR // 2) // FAR
        operands = len(self._first)
        if number <= operands:
            return number, address - self._first[number - 1]
        return operands + 1, places[number - operands - 1] + address - number * FAR


def lay_out(lives: Sequence[Life]) -> tuple[list[int], int]:
    """Places in one block for pieces, such that no two that live together overlap; its bytes.

    Each is put into the first gap that is large enough, in the order in which they were allocated.
    """
    places: list[int] = []
    total = 0
    for life in lives:
        place = 0
        for other, at in sorted(zip(lives, places, strict=False), key=lambda pair: pair[1]):
            alive = other.died is None or other.died > life.born
            if alive and at < place + life.nbytes and place < at + other.nbytes:
                place = -(-(at + other.nbytes) // ALIGNMENT) * ALIGNMENT
        places.append(place)
        total = max(total, place + life.nbytes)
    return places, total
