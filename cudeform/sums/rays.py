"""Where the heads of a new attention layer look."""

from __future__ import annotations

from typing import Any

import numpy as np


def rays(heads: int, levels: int, points: int) -> Any:
    """Offsets of a new layer, (heads, levels, points, 2), in pixels.

    Head ``m`` looks in the direction of the angle ``2*pi*m/heads``; point ``p`` is ``p + 1`` pixels
    away along the longer axis.
    """
    angles = np.arange(heads) * (2 * np.pi / heads)
    directions = np.stack((np.cos(angles), np.sin(angles)), -1)
    directions /= np.abs(directions).max(-1, keepdims=True)
    along = directions[:, None, None] * np.arange(1, points + 1)[:, None]
    return np.broadcast_to(along, (heads, levels, points, 2))
