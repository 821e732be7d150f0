"""The recorder: blocks of workspace share memory, pointers become addresses."""

from __future__ import annotations

import numpy as np
from hostcuda import HostDevice
from hypothesis import given
from hypothesis import strategies as st

from cudeform.gpu.device_api.commands import FillZero, Kernel, KernelLaunch
from cudeform.gpu.replay.recorder import (
    BLOCK_ALIGNMENT,
    SPACING,
    Lifetime,
    Recorder,
    pack_blocks,
)

lifetimes = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 9), st.integers(0, 9)).map(
        lambda drawn: Lifetime(drawn[0], min(drawn[1:]), max(drawn[1:]))
    ),
    max_size=12,
).map(lambda drawn: sorted(drawn, key=lambda lifetime: lifetime.start))


@given(lifetimes)
def test_blocks_of_the_same_time_do_not_overlap(blocks: list[Lifetime]) -> None:
    offsets, total = pack_blocks(blocks)
    for i, (one, offset) in enumerate(zip(blocks, offsets, strict=True)):
        assert offset % BLOCK_ALIGNMENT == 0
        assert offset + one.nbytes <= total
        for other, start in zip(blocks[:i], offsets, strict=False):
            assert other.end is not None
            if other.end > one.start:
                assert offset + one.nbytes <= start or start + other.nbytes <= offset
    assert total <= sum(-(-one.nbytes // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT for one in blocks)


def test_a_block_reuses_the_memory_of_a_released_one() -> None:
    blocks = [
        Lifetime(1000, 0, 2),
        Lifetime(500, 0, 4),
        Lifetime(900, 2, 4),
        Lifetime(100, 3),
        Lifetime(10, 9),
    ]
    assert pack_blocks(blocks) == ([0, 1024, 0, 1536, 0], 1636)


def test_pointers_are_told_apart_at_any_distance() -> None:
    device, recorder = HostDevice(), Recorder(HostDevice())
    arrays = [device.put(np.zeros(4, "float16"), skew=skew) for skew in (0, 3)]
    one, two = map(recorder.stand_in, arrays)
    assert one is not None
    assert two is not None
    assert [a.pointer % 16 for a in (one, two)] == [a.pointer % 16 for a in arrays]
    assert recorder.stand_in(None) is None
    first, second = recorder.allocate(100), recorder.allocate(300)
    pointers = [
        *(0, one.pointer + 2**40, one.pointer - 2**40, two.pointer - 6),
        *(first.pointer, second.pointer + 299),
    ]
    recorder.queue(KernelLaunch(Kernel("", ""), 1, 32, np.zeros(1)), pointers)
    recorder.queue(FillZero(16), [second.pointer + 8])
    (launch, fill), workspace = recorder.finish()
    assert launch.addresses == ((0, 0), (1, 2**40), (1, -(2**40)), (2, -6), (4, 0), (4, 256 + 299))
    assert fill.addresses == ((4, 256 + 8),)
    assert workspace == 256 + 300
    assert SPACING > 2**63


def test_a_block_is_released_with_the_last_reference() -> None:
    recorder, fill = Recorder(HostDevice()), FillZero(8)
    first = recorder.allocate(1000)
    recorder.queue(fill, [first.pointer])
    second = recorder.allocate(500)
    recorder.queue(fill, [second.pointer])
    del first
    third = recorder.allocate(900)
    recorder.queue(fill, [third.pointer])
    steps, workspace = recorder.finish()
    assert [step.addresses for step in steps] == [((1, 0),), ((1, 1024),), ((1, 0),)]
    assert workspace == 1524
