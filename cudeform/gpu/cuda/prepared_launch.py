"""Steps prepared for one GPU, with loaded kernels and packed arguments, to be queued many times.

Kernels are launched by CuPy's thin wrapper of the driver's function, because a ``RawKernel``
inspects every argument at every launch, which takes longer than the launch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from cudeform.gpu.cuda import cublas
from cudeform.gpu.device_api.commands import Address, FillZero, Gemm, Kernel, KernelLaunch, Step

# The same options for all kernels, because CuPy compiles an empty file for each new tuple of
# options.
OPTIONS = ("--std=c++17",)

# Dynamic shared memory that a kernel may use without a request.
DEFAULT_SHARED_BYTES = 48 * 1024

# Queues a command on a stream; the bases give its pointers.
Queue = Callable[[int, Sequence[int]], None]


class PreparedSteps:
    """The steps of a plan as calls of the driver, for one call of the engine at a time.

    Attributes:
        uses_cublas: whether there are matrix products.
    """

    def __init__(self, cupy: Any, index: int, steps: Sequence[Step]) -> None:
        """Load the kernels on the current device, whose number is ``index``."""
        self._cupy, self._index = cupy, index
        launches = [
            (step.command, step.addresses)
            for step in steps
            if isinstance(step.command, KernelLaunch)
        ]
        self._arguments = Arguments(launches)
        tables = iter(self._arguments.tables)
        self._queues = [
            self._launch(step.command, next(tables))
            if isinstance(step.command, KernelLaunch)
            else self._other(step.command, step.addresses)
            for step in steps
        ]
        self.uses_cublas = any(isinstance(step.command, Gemm) for step in steps)

    def queue(self, stream: int, bases: Sequence[int]) -> None:
        """Queue all steps."""
        self._arguments.fill(bases)
        for queue in self._queues:
            queue(stream, bases)

    def _launch(self, command: KernelLaunch, table: int) -> Queue:
        kernel = _compiled(self._cupy, command.kernel, self._index)
        if command.shared_bytes > DEFAULT_SHARED_BYTES:
            _allow_shared(kernel, command.shared_bytes)
        launch, function = self._cupy.cuda.driver.launchKernel, kernel.kernel.ptr
        grid = (command.blocks, 1, 1, command.threads, 1, 1, command.shared_bytes)
        return lambda stream, bases: launch(function, *grid, stream, table, 0)

    def _other(self, command: Gemm | FillZero, addresses: tuple[Address, ...]) -> Queue:
        if isinstance(command, Gemm):
            return cublas.prepare(self._cupy, command, addresses)
        memset, ((base, distance),) = self._cupy.cuda.runtime.memsetAsync, addresses
        nbytes = command.nbytes
        return lambda stream, bases: memset(bases[base] + distance, 0, nbytes, stream)


class Arguments:
    """Arguments of kernel launches in host memory, in the form that cuLaunchKernel reads.

    cuLaunchKernel takes a table with the address of each argument, and copies the arguments before
    it returns. So the tables never change; each call writes its pointers, all at once.

    Attributes:
        tables: address of the table of each launch.
    """

    def __init__(self, launches: Sequence[tuple[KernelLaunch, tuple[Address, ...]]]) -> None:
        """Allocate the arguments; the tables refer to the structs of the commands."""
        self._launches = launches  # keeps the structs alive
        addresses = [address for _, addresses in launches for address in addresses]
        self._bases = np.array([base for base, _ in addresses], np.intp)
        self._distances = np.array([distance for _, distance in addresses], np.int64)
        self._pointers = np.zeros(len(addresses), np.int64)
        slots = iter(self._pointers.ctypes.data + 8 * np.arange(len(addresses)))
        rows = [
            [*(int(next(slots)) for _ in addresses), command.params.ctypes.data]
            for command, addresses in launches
        ]
        self._tables = [np.array(row, np.int64) for row in rows]
        self.tables = [table.ctypes.data for table in self._tables]

    def fill(self, bases: Sequence[int]) -> None:
        """Compute all pointers from ``bases``."""
        np.array(bases, np.int64).take(self._bases, out=self._pointers, mode="clip")
        self._pointers += self._distances


@cache
def _compiled(cupy: Any, kernel: Kernel, index: int) -> Any:
    """A kernel; CuPy compiles it at first use and caches it on disk.

    There is one object per device, because the limit of shared memory is set per device.
    """
    del index
    return cupy.RawKernel(kernel.source, kernel.name, options=OPTIONS)


@cache
def _allow_shared(kernel: Any, nbytes: int) -> None:
    """Raise the limit of a kernel's dynamic shared memory, if necessary."""
    if kernel.max_dynamic_shared_size_bytes < nbytes:  # another launch may have raised it further
        kernel.max_dynamic_shared_size_bytes = nbytes
