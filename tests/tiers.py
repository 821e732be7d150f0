"""Selects the parameters with which the default run runs a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def quick(values: Sequence[Any], *indices: int) -> list[Any]:
    """Mark all parameters slow except those at the given indices, which the default run uses."""
    return [
        value if index in indices else pytest.param(value, marks=pytest.mark.slow)
        for index, value in enumerate(values)
    ]
