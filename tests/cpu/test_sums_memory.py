"""Scratch memory of sums of samples on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from checks import measured_peak
from support.cpu_sums import SumCase, attention, backward, dcnv3, levels_of

from cudeform import cpu
from cudeform.arrays import Gradients, Operands
from cudeform.options import Options
from cudeform.sums_geometry import ScaledGrid, SumGeometry

KIB, MIB = 2**10, 2**20
LIMIT = 256 * KIB


def forward_peak(case: SumCase, options: Options) -> int:
    """Bytes that a call allocates at most."""
    output = np.empty(case.output_shape, case.input.dtype)
    cpu.sums_forward(case.operands, case.g, options, output)
    with measured_peak() as peak:
        cpu.sums_forward(case.operands, case.g, options, output)
    return int(peak.nbytes)


def test_nothing_is_copied_in_place() -> None:
    case = attention(((60, 80), (30, 40)), (4, 4), queries=4000, dtype="float32")
    assert case.offset.nbytes > MIB
    assert forward_peak(case, Options()) < 256 * KIB


@pytest.mark.parametrize("threads", [1, 4])
def test_copies_stay_within_the_limit(threads: int) -> None:
    case = attention(((16, 16),), (16,), queries=8000, channels=1, dtype="float16")
    image = 4 * case.input.size // case.g.batch
    peak = forward_peak(case, Options(workspace_limit=LIMIT, num_threads=threads))
    assert LIMIT // 8 < peak < LIMIT + image + 256 * KIB


def test_the_backward_allocates_no_image_in_place() -> None:
    grid = ScaledGrid((3, 3), (1, 1), (1, 1), (1, 1), 1.0, remove_center=False)
    sizes = {"size": (96, 96), "out": (96, 96), "groups": 4, "channels": 16}
    case = dcnv3(grid, **sizes, dtype="float32")
    grad_output = case.like_output()
    grads = backward(case, grad_output)
    into = Gradients(grads[0], grads[1], mask=grads[2])
    with measured_peak() as peak:
        cpu.sums_backward(case.operands, case.g, Options(), grad_output, into)
    assert peak.nbytes < 256 * KIB < case.input.nbytes // 8


@pytest.mark.slow
def test_an_encoder_of_deformable_detr() -> None:
    sizes = ((100, 167), (50, 84), (25, 42), (13, 21))
    queries = sum(height * width for height, width in sizes)
    g = SumGeometry(1, 8, 32, (queries, 1), levels_of(sizes, (4,) * 4))
    rng = np.random.default_rng(0)
    value = rng.standard_normal((1, g.pixels, 1, 8, 32), np.float32)
    offset = rng.random((1, queries, 1, 8, 16, 2), np.float32)
    mask = rng.random((1, queries, 1, 8, 16), np.float32)
    case = SumCase(g, value, offset, mask)
    assert forward_peak(case, Options()) < MIB
    half = Operands(value.astype(np.float16), offset, None, mask=mask)
    assert forward_peak(SumCase(g, *half[:2], mask), Options()) < 64 * MIB + value.nbytes
