"""What a plan holds and a device queues: launches, products, zeros, with addresses left open."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from cudeform.gpu.device_api.protocol import Device, Gemm, Kernel

# An address when the plan is used: number of a base, and bytes behind it. Base 0 is address 0.
Spot = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch of a kernel."""

    kernel: Kernel
    blocks: int
    threads: int
    spots: tuple[Spot, ...]
    params: NDArray[Any]
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Product:
    """A product of matrices."""

    gemm: Gemm
    spots: tuple[Spot, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """Zeros."""

    spots: tuple[Spot, ...]
    nbytes: int


Step = Launch | Product | Fill


class Executor(Device, Protocol):
    """A device that carries out plans."""

    @property
    def kind(self) -> Hashable:
        """Equal for devices that can use each other's plans."""

    @property
    def out_of_memory(self) -> tuple[type[Exception], ...]:
        """What ``allocate`` raises when memory is exhausted, and for no other reason."""

    def replay(self, steps: Sequence[Step], bases: Sequence[int], kept: list[Any]) -> None:
        """Queue steps.

        Args:
            steps: in order.
            bases: 0, the addresses of the operands, that of the workspace.
            kept: where the device may leave what it works out for these steps; empty at first, and
                the same list whenever they come.
        """


def queue(device: Device, steps: Sequence[Step], bases: Sequence[int]) -> None:
    """Ask a device for steps, one by one."""
    for step in steps:
        pointers = [bases[base] + distance for base, distance in step.spots]
        match step:
            case Launch():
                device.launch(
                    step.kernel,
                    step.blocks,
                    step.threads,
                    pointers,
                    step.params,
                    step.shared_bytes,
                )
            case Product():
                device.gemm(step.gemm, pointers)
            case Fill():
                device.fill_zero(pointers[0], step.nbytes)
