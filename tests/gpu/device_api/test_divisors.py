"""The multipliers that replace integer divisions in kernels."""

from __future__ import annotations

import numpy as np
import pytest

from cudeform.gpu.device_api.conv_sizes import Problem
from cudeform.gpu.device_api.structs import c_text, divisor, struct_dtype

LAST = 2**31 - 1


@pytest.mark.parametrize(
    "by", [*range(1, 40), 128, 168, 1000, 2**16 - 1, 2**16, 2**16 + 1, 2**30 + 1, LAST - 1, LAST]
)
def test_quotients_are_exact(by: int) -> None:
    same, multiplier, shift = divisor(by)
    assert same == by
    assert multiplier < 2**32
    assert 0 <= shift < 32
    steps = np.unique(np.geomspace(1, LAST // by + 1, 200).astype(np.int64)) * by
    some = np.concatenate([steps - 1, steps, steps + 1, [0, 1, LAST - 1, LAST]])
    for n in some[(some >= 0) & (some <= LAST)].tolist():
        assert 2 * n * multiplier >> 32 + shift == n // by  # as in indexing.cuh


def test_nothing_is_divided_by_a_size_that_is_missing() -> None:
    assert divisor(0) == (0, 0, 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_divisor_is_the_same_in_both_languages(bits: int) -> None:
    assert struct_dtype(Problem, bits, 2)["by_taps"].itemsize == 12
    text = c_text(Problem, bits)
    assert "    Divisor by_taps;\n" in text
    assert "struct Divisor { int by; unsigned int multiplier; int shift; };" in text
