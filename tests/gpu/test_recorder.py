"""The recorder of launch plans: pieces of workspace share room, addresses are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from checks import needs_compiler
from hostcuda import HostDevice
from hypothesis import given
from hypothesis import strategies as st

from cudeform.gpu.replay.recorder import ALIGNMENT, FAR, Life, Recorder, lay_out

pytestmark = needs_compiler

lives = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 9), st.integers(0, 9)).map(
        lambda drawn: Life(drawn[0], min(drawn[1:]), max(drawn[1:]))
    ),
    max_size=12,
).map(lambda drawn: sorted(drawn, key=lambda life: life.born))


@given(lives)
def test_pieces_that_live_together_do_not_overlap(pieces: list[Life]) -> None:
    places, total = lay_out(pieces)
    for i, (one, at) in enumerate(zip(pieces, places, strict=True)):
        assert at % ALIGNMENT == 0
        assert at + one.nbytes <= total
        for two, there in zip(pieces[:i], places, strict=False):
            assert two.died is not None
            if two.died > one.born:
                assert at + one.nbytes <= there or there + two.nbytes <= at
    assert total <= sum(-(-life.nbytes // ALIGNMENT) * ALIGNMENT for life in pieces)


def test_a_piece_takes_the_place_of_one_that_is_gone() -> None:
    lives = [Life(1000, 0, 2), Life(500, 0, 4), Life(900, 2, 4), Life(100, 3), Life(10, 9)]
    assert lay_out(lives) == ([0, 1024, 0, 1536, 0], 1636)


def test_addresses_are_told_apart_however_far_they_are_moved() -> None:
    device, recorder = HostDevice(), Recorder(HostDevice())
    arrays = [device.put(np.zeros(4, "float16"), skew=skew) for skew in (0, 3)]
    one, two = map(recorder.stand_in, arrays)
    assert one is not None
    assert two is not None
    assert [a.pointer % 16 for a in (one, two)] == [a.pointer % 16 for a in arrays]
    none = recorder.stand_in(None)
    assert none is None
    first, second = recorder.allocate(100), recorder.allocate(300)
    kernel: Any = "kernel"
    addresses = [
        *(0, one.pointer + 2**40, one.pointer - 2**40, two.pointer - 6),
        *(first.pointer, second.pointer + 299),
    ]
    recorder.launch(kernel, 1, 32, addresses, np.zeros(1))
    recorder.fill_zero(second.pointer + 8, 16)
    steps, workspace = recorder.finish()
    launch, fill = (step.spots for step in steps)  # type: ignore[attr-defined]
    assert launch == ((0, 0), (1, 2**40), (1, -(2**40)), (2, -6), (4, 0), (4, 256 + 299))
    assert fill == ((4, 256 + 8),)
    assert workspace == 256 + 300
    assert FAR > 2**63


def test_a_piece_ends_when_nobody_holds_it() -> None:
    recorder = Recorder(HostDevice())
    first = recorder.allocate(1000)
    recorder.fill_zero(first.pointer, 8)
    second = recorder.allocate(500)
    recorder.fill_zero(second.pointer, 8)
    del first
    third = recorder.allocate(900)
    recorder.fill_zero(third.pointer, 8)
    steps, workspace = recorder.finish()
    assert [step.spots for step in steps] == [((1, 0),), ((1, 1024),), ((1, 0),)]  # type: ignore[attr-defined]
    assert workspace == 1524
