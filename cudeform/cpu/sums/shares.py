"""How threads share the samples of a call: by positions, or by groups and channels.

All positions of an image contribute to the gradient of each of its groups. For a range of channels
of a group, one thread adds the contributions in the order of the positions, so the order of the
sums does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cudeform.cpu.loops.sums.arguments import Positions
from cudeform.cpu.loops.vectors import VECTOR
from cudeform.cpu.sums.arrays import BoxArrays
from cudeform.cpu.sums.call import MIN_BOX_WORK, Array, SumCall
from cudeform.cpu.tiling import Box
from cudeform.partition import split

# Number of shares per thread if the gradient of the images is computed. With several shares, the
# threads finish at about the same time.
SHARES_PER_THREAD = 2


class Share(NamedTuple):
    """The samples of an image that one thread processes.

    Attributes:
        image: number of the image in the batch.
        positions, groups: their ranges.
        channels: channels of each group whose gradient is added to that of the image.
    """

    image: int
    positions: slice
    groups: slice
    channels: slice


Loop = Callable[[Share, Box, list[Positions]], None]


def by_positions(call: SumCall, images: slice) -> list[Share]:
    """Shares with all groups, for results that each belong to a position."""
    groups, channels = slice(0, call.g.groups), slice(0, call.g.channels)
    parts = split(call.g.out_pixels, call.positions)
    return [
        Share(n, part, groups, channels) for n in range(images.start, images.stop) for part in parts
    ]


def by_groups(call: SumCall, images: slice) -> list[Share]:
    """Shares with all positions, for the gradient of the images: enough to occupy all threads.

    The samples of several groups at a position are often close to each other, so a share has
    several groups.
    """
    g, count = call.g, images.stop - images.start
    work = g.out_pixels * g.groups * g.taps * g.channels // MIN_BOX_WORK
    wanted = max(1, min(-(-SHARES_PER_THREAD * call.threads // count), work))
    groups = split(g.groups, max(1, g.groups // wanted))
    length = -(-g.channels // -(-min(call.threads, wanted) // (count * len(groups))))
    channels = split(g.channels, -(-length // VECTOR) * VECTOR)
    positions = slice(0, g.out_pixels)
    return [
        Share(n, positions, some, part)
        for n in range(images.start, images.stop)
        for some in groups
        for part in channels
    ]


def have_all_channels(call: SumCall, shares: list[Share]) -> bool:
    """Whether each share has all channels of its groups."""
    return bool(shares[0].channels.stop == call.g.channels)


def each_share(call: SumCall, shares: list[Share], arrays: BoxArrays, loop: Loop) -> None:
    """Run a loop on all shares; a share whose arrays are copied is processed box by box."""
    by_group = {share.groups.start: share.groups for share in shares}
    parts = {first: arrays.of_groups(groups) for first, groups in by_group.items()}
    most = call.positions if arrays.copied else call.g.out_pixels

    def work(share: Share, buffers: list[Array]) -> None:
        first, image = share.positions.start, slice(share.image, share.image + 1)
        for part in split(share.positions.stop - first, most):
            box = Box(first + part.start, first + part.stop, image)
            with parts[share.groups.start].layouts(box, buffers) as layouts:
                loop(share, box, layouts)

    call.run(work, shares, lambda: arrays.buffers(most))
