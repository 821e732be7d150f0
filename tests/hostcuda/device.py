"""A device on the CPU: the ``Device`` protocol over guarded memory and compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cudeform.arrays import DeviceArray
from cudeform.gpu.device_api.commands import Command, FillZero, Gemm, Kernel, KernelLaunch, Step
from hostcuda.compiler import WATCH_RACES, compiled
from hostcuda.gemm import multiply
from hostcuda.library import MOST_THREADS, KernelError, Launch, Library
from hostcuda.memory import Arena, Buffer, Flush
from hostcuda.views import DTYPES, contiguous, reach, view

MOST_BLOCKS = 2**31 - 1
MOST_PARAMETER_BYTES = 4096


@dataclass(frozen=True)
class Launched:
    """A launch that succeeded, and the bytes of global and shared memory that it accessed.

    If the device watches races, all accesses are counted; otherwise only those by functions of
    ptx.h, and none to shared memory.
    """

    kernel: str
    blocks: int
    threads: int
    shared_bytes: int
    loaded: int
    stored: int
    added: int
    in_shared: int


class HostDevice:
    """Runs kernels on the CPU, one thread at a time, and detects their errors.

    Args:
        flush: which end of a buffer adjoins a guard page, ``"start"`` or ``"end"``.
        seed: determines the order of blocks and threads.
        memory: bytes that can be allocated.
        compute_capability: such as 90 for sm_90.
        multiprocessors: the number that the engine plans for.
        shared_limit: limit of a block's shared memory, in bytes.
        seconds: limit of a launch's processor time.
        races: report races too, and count all accesses; slow.
        flags: additional flags of the compiler, to test the harness itself.

    Attributes:
        log: launches and matrix products, in order.
        peak_bytes: the most memory in use at a time.
    """

    def __init__(
        self,
        *,
        flush: Flush = "end",
        seed: int = 0,
        memory: int = 2**32,
        compute_capability: int = 80,
        multiprocessors: int = 4,
        shared_limit: int = 99 * 1024,
        seconds: float = 60.0,
        races: bool = False,
        flags: tuple[str, ...] = (),
    ) -> None:
        self.kind = object()  # launch plans are made for this device alone
        self.seed = seed
        self.compute_capability = compute_capability
        self.multiprocessors = multiprocessors
        self.shared_limit = shared_limit
        self.seconds = seconds
        self.log: list[Launched | Gemm] = []
        self.peak_bytes = 0
        self._arena = Arena(flush)
        self._memory = memory
        self._flags = (*flags, *WATCH_RACES) if races else flags
        self._libraries: dict[Kernel, Library] = {}
        self._buffers: dict[int, Buffer] = {}

    # ---- the protocol ----------------------------------------------------------------------------

    out_of_memory = (MemoryError,)

    def free_bytes(self) -> int:
        """Memory that could be allocated now."""
        return self._memory - self._arena.used_bytes

    def allocate(self, nbytes: int) -> Buffer:
        """Memory full of poison, freed when the object is deleted."""
        if nbytes > self.free_bytes():
            raise MemoryError(f"{nbytes} bytes wanted, {self.free_bytes()} are free")
        buffer = Buffer(self._arena, nbytes)
        self.peak_bytes = max(self.peak_bytes, self._arena.used_bytes)
        return buffer

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        """Set bytes to 0."""
        self._bytes(pointer, pointer + nbytes)[...] = 0

    def launch(
        self,
        kernel: Kernel,
        blocks: int,
        threads: int,
        pointers: Sequence[int],
        params: NDArray[Any],
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel.

        Raises:
            KernelError: the kernel made an error.
            CompileError: its text does not compile.
            ValueError: a GPU would refuse the launch.
        """
        self._check_launch(blocks, threads, pointers, params, shared_bytes)
        library = self.library(kernel)
        shared = Buffer(self._arena, shared_bytes)
        launch = Launch(
            shared=shared.pointer,
            shared_bytes=shared_bytes,
            blocks=blocks,
            threads=threads,
            seed=self.seed,
            seconds=self.seconds,
        )
        try:
            library.run(launch, pointers, params, self._arena.describe)
        finally:
            written = self._arena.repair_margins()
        if written:
            raise KernelError(kernel.name, None, None, f"wrote {written[0]}")
        counts = (launch.loaded, launch.stored, launch.added, launch.in_shared)
        self.log.append(Launched(kernel.name, blocks, threads, shared_bytes, *counts))

    def gemm(self, gemm: Gemm, pointers: Sequence[int]) -> None:
        """Multiply matrices; the pointers are those of a, b and c."""
        multiply(gemm, pointers, self._bytes)
        self.log.append(gemm)

    def queue(self, command: Command, pointers: Sequence[int]) -> None:
        """Execute a command at once."""
        match command:
            case KernelLaunch(kernel, blocks, threads, params, shared_bytes):
                self.launch(kernel, blocks, threads, pointers, params, shared_bytes)
            case Gemm():
                self.gemm(command, pointers)
            case FillZero(nbytes):
                self.fill_zero(pointers[0], nbytes)

    def replay(self, steps: Sequence[Step], bases: Sequence[int], prepared: list[Any]) -> None:
        """Execute the steps of a plan; nothing is prepared."""
        del prepared
        for command, addresses in steps:
            self.queue(command, [bases[base] + distance for base, distance in addresses])

    # ---- for tests -------------------------------------------------------------------------------

    def put(self, array: NDArray[Any], *, skew: int = 0) -> DeviceArray:
        """Copy an array to the device with its strides; gaps between its elements are poison.

        Args:
            array: of one of the dtypes of ``views.DTYPES``; may be broadcast or reversed.
            skew: distance from an aligned address to the array, in elements.
        """
        strides = tuple(stride // array.itemsize for stride in array.strides)
        result = self.empty(array.shape, array.dtype.name, strides=strides, skew=skew)
        self._view(result)[...] = array
        return result

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: str,
        *,
        strides: tuple[int, ...] | None = None,
        skew: int = 0,
    ) -> DeviceArray:
        """An array full of poison; without gaps if no strides are given."""
        strides = contiguous(shape) if strides is None else strides
        low, high = reach(shape, strides)
        itemsize = DTYPES[dtype].itemsize
        buffer = self.allocate((skew + high - low) * itemsize)
        array = DeviceArray(buffer.pointer + (skew - low) * itemsize, shape, strides, dtype)
        self._buffers[array.pointer] = buffer
        return array

    def read(self, array: DeviceArray) -> NDArray[Any]:
        """A copy of the contents of an array."""
        return self._view(array).copy()

    def free(self, array: DeviceArray) -> None:
        """Free an array that ``put`` or ``empty`` made."""
        del self._buffers[array.pointer]

    def library(self, kernel: Kernel) -> Library:
        """A kernel, compiled."""
        library = self._libraries.get(kernel)
        if library is None:
            library = Library(kernel.name, compiled(kernel, self._flags))
            self._libraries[kernel] = library
        return library

    # ---- checks ----------------------------------------------------------------------------------

    def _view(self, array: DeviceArray) -> NDArray[Any]:
        return view(array.pointer, array.shape, array.strides, array.dtype, self._bytes)

    def _bytes(self, low: int, high: int) -> NDArray[np.uint8]:
        if self._arena.span_of(low, high) is None:
            raise ValueError(f"{high - low} bytes, the first {self._arena.describe(low)}")
        data = memoryview((ctypes.c_char * (high - low)).from_address(low))
        return np.frombuffer(data, np.uint8)

    def _check_launch(
        self,
        blocks: int,
        threads: int,
        pointers: Sequence[int],
        params: NDArray[Any],
        shared_bytes: int,
    ) -> None:
        if not 1 <= blocks <= MOST_BLOCKS:
            raise ValueError(f"blocks must be 1 to {MOST_BLOCKS}, got {blocks}")
        if not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads must be 1 to {MOST_THREADS}, got {threads}")
        if not 0 <= shared_bytes <= self.shared_limit:
            raise ValueError(
                f"shared_bytes must be at most {self.shared_limit}, got {shared_bytes}"
            )
        if 8 * len(pointers) + params.nbytes > MOST_PARAMETER_BYTES:
            raise ValueError(f"parameters must have at most {MOST_PARAMETER_BYTES} bytes")
        for i, pointer in enumerate(pointers):
            if pointer and self._arena.span_of(pointer, pointer) is None:
                raise ValueError(f"pointer {i} is {self._arena.describe(pointer)}")
