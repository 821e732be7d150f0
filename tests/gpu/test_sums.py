"""Sums of samples without a filter by the GPU engine: values against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.sums_cases import SumCase, attention, expected, grid, output_of

CASES = {
    "attention": attention,
    "grid": grid,
    "plain grid": lambda **sizes: grid((3, 3), scale=1.0, remove_center=False, **sizes),
}
CHANNELS = (1, 3, 16, 24, 32, 64)


def assert_close(got: Any, wanted: Any, error: float) -> None:
    """Check for an error relative to the largest value."""
    np.testing.assert_allclose(
        np.asarray(got, float), wanted, rtol=0, atol=error * max(1e-30, abs(wanted).max())
    )


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", CASES)
def test_the_output_is_that_of_plain_loops(name: str, channels: int, new_device: Any) -> None:
    case: SumCase = CASES[name](channels=channels).cast("float32")
    assert_close(output_of(new_device(), case), expected(case)["output"], 2e-6)
