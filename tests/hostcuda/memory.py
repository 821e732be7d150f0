"""Guarded memory: an access outside a buffer faults, or is detected after the launch.

A buffer has its own pages, between pages without permissions. It begins at the start of its first
page (``flush="start"``) or ends at the end of its last one (``flush="end"``, up to the alignment of
16 bytes). The rest of its pages is margin. Buffer and margin are filled with ``0xFF``: NaN in every
floating-point format, and -1. A margin must not change. Freed addresses are never used again.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Flush = Literal["start", "end"]

POISON = 0xFF
ALIGNMENT = 16  # required by vector loads

# Bytes without permissions on both sides of a buffer: more than a miscounted row or plane.
GUARD = 2**20

_NO_ACCESS, _READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


def map_pages(nbytes: int, *, at: int = 0, readable: bool = False) -> int:
    """Reserve addresses, or change their permissions; either way the contents are lost."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | (_MAP_FIXED if at else 0)
    address = _libc.mmap(at or None, nbytes, _READ_WRITE if readable else _NO_ACCESS, flags, -1, 0)
    if address is None or address == _FAILED:
        raise MemoryError(f"mmap of {nbytes} bytes failed, errno {ctypes.get_errno()}")
    return int(address)


def round_up(number: int, unit: int) -> int:
    """The smallest multiple of ``unit`` that is at least ``number``."""
    return -(-number // unit) * unit


@dataclass(frozen=True)
class Span:
    """The addresses of a buffer and of its pages."""

    pointer: int
    nbytes: int
    pages: int
    pages_end: int

    @property
    def end(self) -> int:
        """The first address after the buffer."""
        return self.pointer + self.nbytes

    def contains(self, low: int, high: int) -> bool:
        """Whether all of ``[low, high)`` is in the buffer."""
        return self.pointer <= low and high <= self.end

    def describe(self, address: int) -> str:
        """Describe an address, relative to the buffer."""
        if address < self.pointer:
            distance = f"{self.pointer - address} bytes before the start"
        elif address >= self.end:
            distance = f"{address - self.end} bytes past the end"
        else:
            distance = f"at byte {address - self.pointer}"
        return f"{distance} of a buffer of {self.nbytes} bytes"

    def repair_margin(self) -> str | None:
        """Poison the margin again; return a description of the first byte that was written."""
        for low, high in ((self.pages, self.pointer), (self.end, self.pages_end)):
            margin = ctypes.string_at(low, high - low)
            if margin.count(POISON) != high - low:
                ctypes.memset(low, POISON, high - low)
                first = next(i for i, byte in enumerate(margin) if byte != POISON)
                return self.describe(low + first)
        return None


class Arena:
    """All the memory of a device."""

    def __init__(self, flush: Flush) -> None:
        if flush not in ("start", "end"):
            raise ValueError(f'flush must be "start" or "end", got {flush!r}')
        self._flush = flush
        self._live: dict[int, Span] = {}
        self._freed: list[Span] = []
        self.used_bytes = 0

    def __iter__(self) -> Iterator[Span]:
        return iter(self._live.values())

    def allocate(self, nbytes: int) -> Span:
        """A new buffer, full of poison."""
        size = round_up(max(nbytes, 1), mmap.PAGESIZE)
        pages = map_pages(size + 2 * GUARD) + GUARD
        map_pages(size, at=pages, readable=True)
        ctypes.memset(pages, POISON, size)
        slack = size - round_up(nbytes, ALIGNMENT) if self._flush == "end" else 0
        span = Span(pages + slack, nbytes, pages, pages + size)
        self._live[span.pointer] = span
        self.used_bytes += nbytes
        return span

    def free(self, span: Span) -> None:
        """Remove all permissions of a buffer."""
        del self._live[span.pointer]
        self._freed.append(span)
        self.used_bytes -= span.nbytes
        map_pages(span.pages_end - span.pages, at=span.pages)

    def span_of(self, low: int, high: int) -> Span | None:
        """The live buffer that all of ``[low, high)`` is in."""
        return next((span for span in self if span.contains(low, high)), None)

    def repair_margins(self) -> list[str]:
        """Poison all margins again; return descriptions of the bytes that were written."""
        return [written for span in self if (written := span.repair_margin())]

    def describe(self, address: int) -> str:
        """Describe an address in words."""
        if 0 <= address < mmap.PAGESIZE:
            return "at a null pointer"
        for spans, suffix in ((self, ""), (self._freed, ", which was freed")):
            for span in spans:
                if span.pages - GUARD <= address < span.pages_end + GUARD:
                    return span.describe(address) + suffix
        return "far from every buffer"


class Buffer:
    """Memory of a device, freed when the object is deleted."""

    def __init__(self, arena: Arena, nbytes: int) -> None:
        self.span = arena.allocate(nbytes)
        weakref.finalize(self, arena.free, self.span).atexit = False

    @property
    def pointer(self) -> int:
        """Address of the first byte."""
        return self.span.pointer
