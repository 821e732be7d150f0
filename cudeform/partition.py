"""Splits a range into nearly equal parts."""

from __future__ import annotations

from itertools import pairwise


def split(size: int, most: int, multiple: int = 1) -> list[slice]:
    """Split ``range(size)`` into parts of nearly equal length, at most ``most``.

    If one part is not enough, the number of parts is the smallest sufficient multiple of
    ``multiple``.

    Example:
        >>> [part.stop - part.start for part in split(37, 32)]
        [18, 19]
    """
    parts = max(1, -(-size // max(1, most)))
    if parts > 1:
        parts = -(-parts // multiple) * multiple
    edges = [size * part // parts for part in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges) if b > a]
