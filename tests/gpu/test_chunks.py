"""Chunks are of nearly equal size, and 32-bit integers can number their samples."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from cases import Case, build
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_engine import forward, geometry, launches

from cudeform.gpu.chunks import Chunk, cut_into_chunks
from cudeform.gpu.costs import Costs
from cudeform.options import Options

pytestmark = needs_compiler


def chunks_of(case: Case, limit: int) -> list[Chunk]:
    costs = Costs(position=1000)
    return cut_into_chunks(geometry(case), HostDevice(), Options(workspace_limit=limit), costs)


@pytest.mark.parametrize("batch", [1, 31, 32, 37, 64, 67, 97])
@pytest.mark.parametrize("most", [1, 8, 31, 32, 33])
def test_a_batch_is_cut_evenly(batch: int, most: int) -> None:
    case = build("any", batch=batch, channels=1, size=(3, 3), out_channels=1)
    pixels = prod(case.grad_output.shape[2:])
    counts = [chunk.count for chunk in chunks_of(case, most * pixels * 1000)]
    assert sum(counts) == batch
    assert len(counts) == -(-batch // most)
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("height", [7, 32, 37])
@pytest.mark.parametrize("most", [1, 5, 8])
def test_rows_are_cut_evenly(height: int, most: int) -> None:
    case = build("any", batch=2, channels=1, size=(height, 3), out_channels=1, kernel=(1, 1))
    chunks = chunks_of(case, min(most, height - 1) * 3 * 1000)
    rows = [chunk.height for chunk in chunks if chunk.images == slice(0, 1)]
    assert sum(rows) == height
    assert len(rows) == -(-height // min(most, height - 1))
    assert max(rows) - min(rows) <= 1
    assert len(chunks) == 2 * len(rows)


def test_an_odd_batch_makes_few_launches() -> None:
    # Sixteen images fit: 32 images are 2 chunks, 37 are 3 of about 12.
    done = {}
    for batch in (32, 37):
        case = build("any", batch=batch, channels=8, size=(4, 4), out_channels=8).cast("float32")
        device = HostDevice()
        forward(device, case, Options(workspace_limit=2_560 + 16 * (512 + 4 * 320)))
        done[batch] = launches(device)
    assert done[32] == {"pack_weight": 1, "channels_last": 2, "deform_im2col": 2, "gemm": 2}
    assert done[37] == {"pack_weight": 1, "channels_last": 3, "deform_im2col": 3, "gemm": 3}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_32_bit_integers_number_samples_and_weights(position: int, axes: int) -> None:
    case = build("any", channels=1, size=(5,) * axes, out_channels=1, batch=1)
    g, corners, costs = geometry(case), 2**axes, Costs(position=position)
    out = {1: (2**28,), 2: (2**14, 2**14), 3: (2**8, 2**10, 2**10)}[axes]
    many = replace(g, batch=2, out=out)
    chunks = cut_into_chunks(many, HostDevice(), Options(workspace_limit=2**50), costs)
    in_row = out[-1] if axes > 1 else 1
    counts = [chunk.count * chunk.height * in_row * many.taps for chunk in chunks]
    assert sum(counts) == 2 * 2**28 * 3**axes
    assert max(counts) * corners < 2**31
    assert max(counts) * 2 * corners > 2**31


@pytest.mark.parametrize(
    ("kernel", "out", "message"),
    [
        ((2**30,), (1,), r"KW\*offset_groups must be at most 1073741823 .*, got 1073741824"),
        ((3, 3), (1, 2**29 // 9 + 1), r"OW\*KH\*KW\*offset_groups must be at most 536870911 .*"),
        ((1, 1, 3), (1, 1, 2**27), r"OW\*KD\*KH\*KW\*offset_groups must be at most 268435455 .*"),
    ],
)
def test_a_row_of_too_many_samples_is_refused(
    kernel: tuple[int, ...], out: tuple[int, ...], message: str
) -> None:
    g = geometry(build("any", channels=1, size=(5,) * len(out), out_channels=1, batch=1))
    wide = replace(g, kernel=kernel, out=out)
    with pytest.raises(ValueError, match=message):
        cut_into_chunks(wide, HostDevice(), Options(), Costs())
