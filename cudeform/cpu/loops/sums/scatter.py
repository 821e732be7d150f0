"""The gradient of the output scattered to the gradient of the images. Arguments as in gather.py."""

from __future__ import annotations

from typing import Any, NamedTuple

from cudeform.cpu.loops.coordinates import BLOCK, FLAGS, MASK, fractions
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import contributing_corners
from cudeform.cpu.loops.scatter import corners_receiving_grad, scatter_run, scatter_weights
from cudeform.cpu.loops.sums.arguments import positions_pointer, sum_pointers
from cudeform.cpu.loops.sums.coordinates import (
    begin_positions,
    begin_taps,
    index_in,
    level_of,
    locate_samples,
    new_sum_block,
)
from cudeform.cpu.loops.vectors import pointer_to


class RunSizes(NamedTuple):
    """The level of a sample, and the number of channels that a loop scatters."""

    size: Any
    steps: Any
    run: Any


@inlined
def run_sizes(sizes: Any, block: Any, k: Any, channels: Any) -> Any:
    """The level of sample ``k`` of a block, and a number of channels."""
    level = level_of(sizes, block, k)
    return RunSizes(level.size, level.steps, channels)


@loop
def sum_scatter(
    sizes: Any,
    first: Any,
    last: Any,
    group: Any,
    first_channel: Any,
    last_channel: Any,
    table: Any,
    samples: Any,
    grad_output: Any,
    grad_image: Any,
) -> None:
    """Add to the gradient of an image, for a range of channels of one group.

    Samples are added in the order of positions and taps, if they are at most BLOCK taps. Threads
    with disjoint groups or ranges of channels write disjoint elements.

    Args:
        sizes, first, last, table, samples: as in ``gather.py``, for the strides of ``grad_image``.
        group: the group.
        first_channel, last_channel: the range of its channels.
        grad_output: gradient of the output, see Positions.
        grad_image: first element of the gradient of the image, as an array of length 1.
    """
    samples, grad_output = sum_pointers(samples), positions_pointer(grad_output)
    grad_image = pointer_to(grad_image)
    channels = last_channel - first_channel
    block = new_sum_block(grad_image)
    for first_tap in range(0, sizes.taps, BLOCK):
        taps, positions = begin_taps(sizes, block, table, first_tap)
        for position in range(first, last, positions):
            count = min(positions, last - position)
            begin_positions(sizes, block, position, count)
            locate_samples(sizes, block, count, first_tap, taps, group, samples)
            for k in range(count):
                grad_index = index_in(grad_output, block, k, group, 0) + first_channel
                for sample in range(k * taps, (k + 1) * taps):
                    run = run_sizes(sizes, block, sample, channels)
                    weights = scatter_weights(
                        fractions(run, block, sample), block.numbers[MASK + sample]
                    )
                    corners = contributing_corners(run, block.integers[FLAGS + sample])
                    scatter_run(
                        run,
                        grad_image,
                        block.pixels[sample] + first_channel,
                        corners_receiving_grad(run, corners, weights),
                        weights,
                        grad_output.array,
                        grad_index,
                    )
