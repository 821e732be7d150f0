"""Steps made ready for one GPU: kernels loaded, arguments laid out, all that calls have in common.

Launches go to the driver by CuPy's thin wrapper of it: a ``RawKernel`` would look at each argument
of each launch anew, which takes longer than the launch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from cudeform.gpu.cuda import cublas
from cudeform.gpu.device_api.commands import Fill, Launch, Product, Step
from cudeform.gpu.device_api.protocol import Kernel

# One tuple for all kernels: CuPy compiles an empty file for each new one it meets.
OPTIONS = ("--std=c++17",)

# Dynamic shared memory that every kernel may have; more must be asked for.
PLAIN_SHARED_BYTES = 48 * 1024

# Queues a step on a stream, with spots counted from some bases.
Queue = Callable[[int, Sequence[int]], None]


class Ready:
    """Steps as the driver takes them, for one call at a time.

    Attributes:
        multiplies: whether there are products.
    """

    def __init__(self, cupy: Any, index: int, steps: Sequence[Step]) -> None:
        """Load what is not loaded yet, on the device of this number, which is the current one."""
        self._cupy, self._index = cupy, index
        self._arguments = Arguments([step for step in steps if isinstance(step, Launch)])
        tables = iter(self._arguments.tables)
        self._queues = [
            self._launch(step, next(tables)) if isinstance(step, Launch) else self._other(step)
            for step in steps
        ]
        self.multiplies = any(isinstance(step, Product) for step in steps)

    def queue(self, stream: int, bases: Sequence[int]) -> None:
        """Queue all steps."""
        self._arguments.fill(bases)
        for queue in self._queues:
            queue(stream, bases)

    def _launch(self, step: Launch, table: int) -> Queue:
        kernel = _compiled(self._cupy, step.kernel, self._index)
        if step.shared_bytes > PLAIN_SHARED_BYTES:
            _allow_shared(kernel, step.shared_bytes)
        launch, function = self._cupy.cuda.driver.launchKernel, kernel.kernel.ptr
        how = (function, step.blocks, 1, 1, step.threads, 1, 1, step.shared_bytes)
        return lambda stream, bases: launch(*how, stream, table, 0)

    def _other(self, step: Product | Fill) -> Queue:
        if isinstance(step, Product):
            return cublas.ready(self._cupy, step)
        memset, ((base, distance),) = self._cupy.cuda.runtime.memsetAsync, step.spots
        nbytes = step.nbytes
        return lambda stream, bases: memset(bases[base] + distance, 0, nbytes, stream)


class Arguments:
    """Arguments of launches in the host's memory, as cuLaunchKernel reads them.

    It takes a table with the address of each argument, and has copied the arguments when it
    returns. Tables stay as they are; the addresses that are passed change all at once.

    Attributes:
        tables: address of the table of each launch.
    """

    def __init__(self, launches: Sequence[Launch]) -> None:
        """Lay them out; the structs stay where the launches have them."""
        self._held = launches
        spots = [spot for launch in launches for spot in launch.spots]
        self._bases = np.array([base for base, _ in spots], np.intp)
        self._distances = np.array([distance for _, distance in spots], np.int64)
        self._passed = np.zeros(len(spots), np.int64)
        places = iter(self._passed.ctypes.data + 8 * np.arange(len(spots)))
        rows = [
            [*(int(next(places)) for _ in launch.spots), launch.params.ctypes.data]
            for launch in launches
        ]
        self._tables = [np.array(row, np.int64) for row in rows]
        self.tables = [table.ctypes.data for table in self._tables]

    def fill(self, bases: Sequence[int]) -> None:
        """Count all spots from ``bases``."""
        np.array(bases, np.int64).take(self._bases, out=self._passed, mode="clip")
        self._passed += self._distances


@cache
def _compiled(cupy: Any, kernel: Kernel, index: int) -> Any:
    """A kernel; CuPy compiles it at its first use and keeps it on disk.

    One for each device, for how much shared memory a block may have is set for each device.
    """
    del index
    return cupy.RawKernel(kernel.source, kernel.name, options=OPTIONS)


@cache
def _allow_shared(kernel: Any, nbytes: int) -> None:
    """Let blocks of a kernel have more dynamic shared memory than kernels have unasked."""
    if kernel.max_dynamic_shared_size_bytes < nbytes:  # it may be that of another launch
        kernel.max_dynamic_shared_size_bytes = nbytes
