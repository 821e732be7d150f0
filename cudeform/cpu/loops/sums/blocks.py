"""The loop over blocks of samples that all loops over sums share."""

from __future__ import annotations

from typing import Any, NamedTuple

from cudeform.cpu.loops.coordinates import BLOCK
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.sums.coordinates import begin_positions, begin_taps, locate_samples


class Part(NamedTuple):
    """The samples of a block: those of one group at some taps of some positions.

    Attributes:
        positions, taps: numbers of positions and taps; sample ``k * taps + tap`` of the block is at
            position ``k``, which is numbered from the first one of the block, as the tap is.
        first_tap: the first tap.
        group: the group.
    """

    positions: Any
    taps: Any
    first_tap: Any
    group: Any


@inlined
def each_block(
    sizes: Any,
    positions: Any,
    groups: Any,
    table: Any,
    samples: Any,
    block: Any,
    work: Any,
    arguments: Any,
) -> None:
    """Locate all samples of a range of positions and groups, and work on each block of them.

    With at most BLOCK taps, the samples of a group have the order of positions and taps.

    Args:
        sizes, table, samples: as in ``gather.py``.
        positions, groups: the first position or group, and the one after the last.
        block: memory for a block, see :func:`new_sum_block`.
        work: inlined function ``work(sizes, block, part, *arguments)``.
        arguments: the rest of its arguments.
    """
    for first_tap in range(0, sizes.taps, BLOCK):
        taps, most = begin_taps(sizes, block, table, first_tap)
        for position in range(positions[0], positions[1], most):
            count = min(most, positions[1] - position)
            begin_positions(sizes, block, position, count, taps)
            for group in range(groups[0], groups[1]):
                part = Part(count, taps, first_tap, group)
                locate_samples(sizes, block, part, samples)
                work(sizes, block, part, *arguments)
