"""The engine's threads: one pool per process, and BLAS limited to one thread while they run.

The calling thread works too, so a call never waits for a free thread of the pool: if other calls
keep the pool busy, or if Python is shutting down, the caller does all the work. A forked child
inherits neither the threads of the pool nor usable locks, so it makes a new pool and new locks.

The OpenBLAS in NumPy's wheels has one pool of threads per process. Used from several threads, it
would oversubscribe the cores, and another number of BLAS threads splits a long sum at other terms,
which rounds it differently. Other BLAS libraries keep their number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import threadpoolctl

from cudeform.cpu.placement import Cores, cores_of_threads, on_cores

Item = TypeVar("Item")
Scratch = TypeVar("Scratch")


class _Pool:
    """A thread pool that starts threads when they are first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.executor: ThreadPoolExecutor | None = None
        self.size = 0

    def submit(self, tasks: Sequence[Callable[[], None]]) -> list[Future[None]]:
        """Submit the tasks to the pool; return the futures of those that it accepted."""
        futures: list[Future[None]] = []
        count = len(tasks)
        with self.lock:
            if self.executor is None or count > self.size:
                # The threads of the previous, smaller pool end when their work is done.
                self.executor = ThreadPoolExecutor(count, thread_name_prefix="cudeform")
                self.size = count
            # Python may be shutting down, or the system may refuse to start more threads.
            with suppress(RuntimeError):
                futures.extend(map(self.executor.submit, tasks))
        return futures


class _Blas:
    """The number of callers that limit BLAS to one thread, and the numbers of threads before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.callers = 0
        self.before: list[int] = []


_pool, _blas = _Pool(), _Blas()


def _reset_after_fork() -> None:
    """In a forked child, reset the pool and the callers, and restore the threads of BLAS."""
    global _pool, _blas
    counts = _blas.before
    _pool, _blas = _Pool(), _Blas()
    _set_blas_threads(counts)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


class _Items:
    """Gives each item to one thread, until no item is left or :meth:`stop` is called."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.lock = threading.Lock()
        self.left = iter(items)

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self.lock:
                item = next(self.left, None)
            if item is None:
                return
            yield item

    def stop(self) -> None:
        with self.lock:
            self.left = iter(())


class OrderedAccumulator:
    """Makes threads add to shared sums in the order of their boxes.

    The sums are cut into parts. A box adds to a part after the previous box has added to it.
    So every sum has the order of the boxes, and threads still work in parallel on different parts.
    """

    def __init__(self, parts: int) -> None:
        self.changed = threading.Condition()
        self.next = [0] * parts
        self.stopped = False

    def add_in_order(self, part: int, box: int, add: Callable[[], None]) -> None:
        """Call ``add`` after the previous box has added to a part; skip it if a box has failed."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or self.next[part] == box)
            if self.stopped:
                return
        add()
        with self.changed:
            self.next[part] += 1
            self.changed.notify_all()

    @contextmanager
    def stopped_by_errors(self) -> Iterator[None]:
        """If the block raises, release all threads that wait for a previous box."""
        try:
            yield
        except BaseException:
            with self.changed:
                self.stopped = True
                self.changed.notify_all()
            raise


def run(
    work: Callable[[Item, Scratch], None],
    items: Sequence[Item],
    threads: int,
    scratch: Callable[[], Scratch],
) -> None:
    """Process all items on ``threads`` threads, in any order.

    Args:
        work: function of an item and the scratch memory of its thread.
        items: the items; None is not allowed among them.
        threads: number of threads, including the caller.
        scratch: function that allocates the scratch memory of a thread.
    """
    left = _Items(items)

    def process_items(cores: Cores | None) -> None:
        # Threads do not inherit NumPy's error state. Infinities and NaNs are valid values here.
        with np.errstate(all="ignore"), on_cores(cores):
            memory = None
            try:
                for item in left:
                    memory = scratch() if memory is None else memory
                    work(item, memory)
            except BaseException:
                left.stop()
                raise

    own_cores, *others = cores_of_threads(max(1, min(threads, len(items))))
    futures = _pool.submit([partial(process_items, cores) for cores in others]) if others else []
    try:
        process_items(own_cores)
    finally:
        begun = [future for future in futures if not future.cancel()]
        errors = [future.exception() for future in begun]
    for error in errors:
        if error is not None:
            raise error


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Limit BLAS to one thread while any caller is inside; the last to leave lifts the limit."""
    blas = _blas
    with blas.lock:
        if blas.callers == 0:
            blas.before = [library.get_num_threads() for library in _blas_libraries()]
            _set_blas_threads([1] * len(blas.before))
        blas.callers += 1
    try:
        yield
    finally:
        with blas.lock:
            blas.callers -= 1
            if blas.callers == 0:
                _set_blas_threads(blas.before)
                blas.before = []


@cache
def _blas_libraries() -> list[Any]:
    """threadpoolctl's controllers of the thread pools that the whole process shares."""
    return [
        library
        for library in threadpoolctl.ThreadpoolController().lib_controllers
        if library.internal_api == "openblas" and library.threading_layer == "pthreads"
    ]


def _set_blas_threads(counts: list[int]) -> None:
    for library, count in zip(_blas_libraries(), counts, strict=False):
        if library.get_num_threads() == count:
            continue
        # In newer versions of threadpoolctl, one thread controls the number until it gives up
        # control. Here the first caller to enter and the last to leave may be different threads.
        give_up_control = getattr(library, "clear_controlling_thread", lambda force: None)
        give_up_control(force=True)
        library.set_num_threads(count)
        give_up_control(force=True)
