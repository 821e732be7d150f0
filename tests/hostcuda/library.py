"""A compiled kernel: loads it, calls it, and turns its failure into an exception."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hostcuda.memory import map_pages

MOST_THREADS = 1024  # of a block
STACK_BYTES = 16 * mmap.PAGESIZE

_FAULTED = 2  # `failure` of a launch that accessed an address without permission


class KernelError(RuntimeError):
    """A kernel made an error; the message says which, where and in which thread.

    Attributes:
        kernel: name of the kernel.
        block: index of the block, None if unknown.
        thread: index of the thread in its block, None if unknown.
    """

    def __init__(self, kernel: str, block: int | None, thread: int | None, what: str) -> None:
        where = "" if block is None else f", block {block}, thread {thread}"
        super().__init__(f"{kernel}{where}: {what}")
        self.kernel = kernel
        self.block = block
        self.thread = thread


class Launch(ctypes.Structure):
    """The struct of the same name in launch.h."""

    _fields_ = (
        ("arguments", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("stacks", ctypes.c_void_p),
        ("shared_bytes", ctypes.c_longlong),
        ("stack_bytes", ctypes.c_longlong),
        ("guard_bytes", ctypes.c_longlong),
        ("blocks", ctypes.c_longlong),
        ("threads", ctypes.c_longlong),
        ("seed", ctypes.c_ulonglong),
        ("seconds", ctypes.c_double),
        ("failure", ctypes.c_longlong),
        ("block", ctypes.c_longlong),
        ("thread", ctypes.c_longlong),
        ("address", ctypes.c_longlong),
        ("instruction", ctypes.c_longlong),
        ("access", ctypes.c_longlong),
        ("loaded", ctypes.c_longlong),
        ("stored", ctypes.c_longlong),
        ("added", ctypes.c_longlong),
        ("in_shared", ctypes.c_longlong),
        ("message", ctypes.c_char * 256),
    )


class Library:
    """One kernel, ready to run.

    Attributes:
        pointers: number of parameters that are pointers.
        struct_bytes: size of the last parameter, a struct.
    """

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        # PyDLL holds the interpreter's lock: a library has one current thread, block and launch.
        self._functions = ctypes.PyDLL(str(path))
        self._functions.hostcuda_launch.restype = None
        self.pointers = self._functions.hostcuda_parameters() - 1
        self.struct_bytes = self._functions.hostcuda_struct_bytes()

    def run(
        self,
        launch: Launch,
        pointers: Sequence[int],
        params: NDArray[Any],
        describe: Callable[[int], str],
    ) -> None:
        """Run all blocks.

        Args:
            launch: all but arguments and stacks; receives the counts.
            pointers: the first parameters of the kernel.
            params: the last parameter, a struct.
            describe: describes an address in words.
        """
        if len(pointers) != self.pointers:
            raise TypeError(f"{self._name} takes {self.pointers} pointers, got {len(pointers)}")
        if params.size != 1 or params.nbytes != self.struct_bytes:
            raise TypeError(
                f"{self._name} takes a struct of {self.struct_bytes} bytes, "
                f"got {params.size} of {params.itemsize} bytes"
            )
        values = (ctypes.c_size_t * len(pointers))(*pointers)
        first = ctypes.addressof(values)
        addresses = [first + i * ctypes.sizeof(ctypes.c_size_t) for i in range(len(pointers))]
        # The same as `params.ctypes.data`, which takes longer than a small launch.
        struct = params.__array_interface__["data"][0]
        arguments = (ctypes.c_size_t * (len(pointers) + 1))(*addresses, struct)
        launch.arguments = ctypes.addressof(arguments)
        launch.stacks = _stacks()
        launch.stack_bytes = STACK_BYTES
        launch.guard_bytes = mmap.PAGESIZE
        self._functions.hostcuda_launch(ctypes.byref(launch))
        if launch.failure:
            what = launch.message.decode()
            if launch.failure == _FAULTED:
                what = self._explain_fault(launch, describe)
            line = source_line(self._path, launch.instruction)
            what = f"{line}: {what}" if line else what
            raise KernelError(self._name, launch.block, launch.thread, what)

    def _explain_fault(self, launch: Launch, describe: Callable[[int], str]) -> str:
        verb = {ord("r"): "reads", ord("w"): "writes"}.get(launch.access, "reads or writes")
        where = "at an impossible address" if launch.address == -1 else describe(launch.address)
        low = launch.stacks
        if low <= launch.address < low + (MOST_THREADS + 1) * (STACK_BYTES + mmap.PAGESIZE):
            where = "past the end of its stack"
        return f"{verb} {where}"


def source_line(library: Path, instruction: int) -> str:
    """File and line of the kernel's text for an instruction, "" if unknown."""
    tool = shutil.which("addr2line")
    if tool is None or instruction <= 0:
        return ""
    command = [tool, "--inlines", "--exe", str(library), hex(instruction)]
    run = subprocess.run(command, text=True, capture_output=True, check=False)
    harness = Path(__file__).parent.name  # by name: another checkout may have compiled it
    lines = (Path(line.split(" ")[0]) for line in run.stdout.splitlines() if "?" not in line)
    return next((path.name for path in lines if path.parent.name != harness), "")


@cache
def _stacks() -> int:
    """A stack for each thread and one for signals, each above a page without permissions."""
    step = mmap.PAGESIZE + STACK_BYTES
    base = map_pages((MOST_THREADS + 1) * step)
    for i in range(MOST_THREADS + 1):
        map_pages(STACK_BYTES, at=base + i * step + mmap.PAGESIZE, readable=True)
    return base
