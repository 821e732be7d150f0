"""The engine's threads: one pool a process, and BLAS held to one thread while they run.

The thread that calls works too, so a call never waits for a thread that the pool does not have:
where other calls keep the pool busy, or Python is shutting down, it works alone. A forked child has
neither the threads of the pool nor the locks of its parent's other threads: both are made again.

OpenBLAS as NumPy's wheels bring it has one pool of threads for the process: with two levels of
threads the cores are oversubscribed, and with other numbers of them a long sum is split in other
places, so rounded otherwise. Other BLAS libraries keep their threads.
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
    """Threads that are started when they are first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.executor: ThreadPoolExecutor | None = None
        self.size = 0

    def submit(self, works: Sequence[Callable[[], None]]) -> list[Future[None]]:
        """Have threads of the pool do the works, or as many of them as it can start."""
        futures: list[Future[None]] = []
        count = len(works)
        with self.lock:
            if self.executor is None or count > self.size:
                # The threads of a smaller pool end when their work does.
                self.executor = ThreadPoolExecutor(count, thread_name_prefix="cudeform")
                self.size = count
            # Python may be shutting down, or the system may have no more threads.
            with suppress(RuntimeError):
                futures.extend(map(self.executor.submit, works))
        return futures


class _Blas:
    """How many callers hold BLAS to one thread, and how many threads it had before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.callers = 0
        self.before: list[int] = []


_pool, _blas = _Pool(), _Blas()


def _begin_anew() -> None:
    """In a forked child: no pool, no callers, BLAS as it was."""
    global _pool, _blas
    held = _blas.before
    _pool, _blas = _Pool(), _Blas()
    _set_blas_threads(held)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class _Items:
    """Hands out items, one to each asker, until there are none or someone gives up."""

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


class Turns:
    """Lets threads that work on boxes next to each other take turns, in the order of the boxes.

    What a box adds to is cut into parts. A box adds to a part when the box before it has done so:
    the order of all sums is that of the boxes, and threads follow each other part by part.
    """

    def __init__(self, parts: int) -> None:
        self.changed = threading.Condition()
        self.next = [0] * parts
        self.stopped = False

    def take(self, part: int, box: int, add: Callable[[], None]) -> None:
        """Add to a part when it is the turn of a box; never, if another box has failed."""
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
        """Let nobody wait for a box that fails."""
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
    """Work on all items, each on one of ``threads`` threads, in any order.

    Args:
        work: takes an item and the scratch memory of its thread.
        items: none of them None.
        threads: the caller's among them.
        scratch: makes the memory of a thread.
    """
    left = _Items(items)

    def share(cores: Cores | None) -> None:
        # Threads do not inherit NumPy's error state; infinity and NaN are values like others.
        with np.errstate(all="ignore"), on_cores(cores):
            memory = None
            try:
                for item in left:
                    memory = scratch() if memory is None else memory
                    work(item, memory)
            except BaseException:
                left.stop()
                raise

    mine, *others = cores_of_threads(max(1, min(threads, len(items))))
    futures = _pool.submit([partial(share, cores) for cores in others]) if others else []
    try:
        share(mine)
    finally:
        begun = [future for future in futures if not future.cancel()]
        errors = [future.exception() for future in begun]
    for error in errors:
        if error is not None:
            raise error


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Hold BLAS to one thread while any caller is inside; the last one out lifts the limit."""
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
    """threadpoolctl's controllers of the pools that belong to the whole process."""
    return [
        library
        for library in threadpoolctl.ThreadpoolController().lib_controllers
        if library.internal_api == "openblas" and library.threading_layer == "pthreads"
    ]


def _set_blas_threads(counts: list[int]) -> None:
    for library, count in zip(_blas_libraries(), counts, strict=False):
        if library.get_num_threads() == count:
            continue
        # Newer threadpoolctl lets one thread alone set the number until it gives up control, but
        # the first caller in and the last one out may be different threads.
        give_up_control = getattr(library, "clear_controlling_thread", lambda force: None)
        give_up_control(force=True)
        library.set_num_threads(count)
        give_up_control(force=True)
