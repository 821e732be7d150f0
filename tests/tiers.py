"""Which parameters of a test the default run takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def quick(values: Sequence[Any], *indices: int) -> list[Any]:
    """Parameters of which the default run takes those at some indices; the others are slow."""
    return [
        value if index in indices else pytest.param(value, marks=pytest.mark.slow)
        for index, value in enumerate(values)
    ]
