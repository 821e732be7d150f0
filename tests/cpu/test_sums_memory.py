"""Scratch memory of sums of samples on the CPU."""

from __future__ import annotations

import pytest
from checks import measured_peak
from support.canonical_sums import PLAIN_GRID, CanonicalSum, attention, dcnv3
from support.cpu_sums import backward, forward

from cudeform import cpu
from cudeform.arrays import Gradients
from cudeform.options import Options

KIB, MIB = 2**10, 2**20
LIMIT = 256 * KIB


def forward_peak(case: CanonicalSum, options: Options) -> int:
    """Bytes that a call allocates at most."""
    output = forward(case, options)
    with measured_peak() as peak:
        cpu.sums_forward(case.operands, case.g, options, output)
    return int(peak.nbytes)


def test_nothing_is_copied_in_place() -> None:
    case = attention([(60, 80, 4), (30, 40, 4)], queries=4000, dtype="float32")
    assert case.offset.nbytes > MIB
    assert forward_peak(case, Options()) < 256 * KIB


@pytest.mark.parametrize("threads", [1, 4])
def test_copies_stay_within_the_limit(threads: int) -> None:
    case = attention([(16, 16, 16)], queries=8000, channels=1, dtype="float16")
    image = 4 * case.input.size // case.g.batch
    peak = forward_peak(case, Options(workspace_limit=LIMIT, num_threads=threads))
    assert LIMIT // 8 < peak < LIMIT + image + 256 * KIB


def test_the_backward_allocates_no_image_in_place() -> None:
    sizes = {"size": (96, 96), "out": (96, 96), "groups": 4, "channels": 16}
    case = dcnv3(PLAIN_GRID, **sizes, dtype="float32")
    into = Gradients(**backward(case))
    with measured_peak() as peak:
        cpu.sums_backward(case.operands, case.g, Options(), case.grad_output, into)
    assert peak.nbytes < 256 * KIB < case.input.nbytes // 8


@pytest.mark.slow
def test_an_encoder_of_deformable_detr() -> None:
    levels = ((100, 167, 4), (50, 84, 4), (25, 42, 4), (13, 21, 4))
    queries = sum(height * width for height, width, _ in levels)
    sizes = {"batch": 1, "queries": queries, "groups": 8, "channels": 32}
    case = attention(levels, **sizes, dtype="float32")
    assert forward_peak(case, Options()) < MIB
    half = case.cast("float16", "float32")
    assert forward_peak(half, Options()) < 64 * MIB + case.input.nbytes
