"""The loop that sums samples: for each position and group, all taps, each times its mask.

The sums of a group at a position are kept in registers, for four vectors of channels at a time,
then for the remaining vectors. The mask multiplies the sample, not the weights of the corners,
because infinity times a weight of 0 is NaN.

Arguments of the loops over sums:

    sizes        sizes of the call, see SumSizes
    first, last  the first position, numbered within an image, and the position after the last one
    image        first element of an image, as an array of length 1
    table        properties of the taps, see TapTable
    samples      offset and mask, see SumSamples
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import MASK
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import weighted_corners
from cudeform.cpu.loops.sums.arguments import positions_pointer, sum_pointers
from cudeform.cpu.loops.sums.blocks import each_block
from cudeform.cpu.loops.sums.coordinates import CORNERS, index_in, level_of, new_sum_block
from cudeform.cpu.loops.sums.weights import weigh_samples, weights_of
from cudeform.cpu.loops.unrolled import all_corners, item, per_axis
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_scaled,
    load_vector_if,
    pointer_to,
    scalar_like,
    splat,
    store_vector,
)


@inlined
def add_sample(
    v: Any,
    sums: Any,
    level: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    weights: Any,
    mask: Any,
    width: Any,
) -> Any:
    """Add vector ``v`` of the channels of a sample to its sum."""
    zero = splat(scalar_like(image, 0))
    value = weighted_corners(level, image, pixel + v * VECTOR, corners, weights, width, zero)
    return add_scaled(item(sums, v), mask, value)


@inlined
def add_samples_of(
    sizes: Any, block: Any, image: Any, first: Any, last: Any, channel: Any, width: Any, sums: Any
) -> Any:
    """Add samples ``first`` to ``last`` of a block to the sums of some vectors of channels."""
    for k in range(first, last):
        level = level_of(sizes, block, k)
        corners, every = block.integers[CORNERS + k], all_corners(level.size)
        weights, mask = weights_of(level, block, k), block.numbers[MASK + k]
        pixel = block.pixels[k] + channel
        if corners == every:
            sample = level, image, pixel, every, weights, mask, width
            sums = per_axis(sums, add_sample, (sums, *sample))
        else:
            sample = level, image, pixel, corners, weights, mask, width
            sums = per_axis(sums, add_sample, (sums, *sample))
    return sums


@inlined
def load_sum(v: Any, array: Any, index: Any, width: Any, begun: Any) -> Any:
    """Load vector ``v`` of the sums of a position; 0 for the first samples."""
    return load_vector_if(begun, array, index + v * VECTOR, width)


@inlined
def store_sum(v: Any, array: Any, index: Any, width: Any, sums: Any) -> None:
    """Store vector ``v`` of the sums of a position."""
    store_vector(array, index + v * VECTOR, width, item(sums, v))


@inlined
def sum_position(
    sizes: Any, block: Any, image: Any, first: Any, last: Any, array: Any, index: Any, begun: Any
) -> None:
    """Sum samples ``first`` to ``last`` of a block for all channels of a position and group."""
    channel = 0
    while channel + 4 * VECTOR <= sizes.channels:
        four = per_axis((0, 0, 0, 0), load_sum, (array, index + channel, VECTOR, begun))
        four = add_samples_of(sizes, block, image, first, last, channel, VECTOR, four)
        per_axis(four, store_sum, (array, index + channel, VECTOR, four))
        channel += 4 * VECTOR
    if channel + 2 * VECTOR <= sizes.channels:
        two = per_axis((0, 0), load_sum, (array, index + channel, VECTOR, begun))
        two = add_samples_of(sizes, block, image, first, last, channel, VECTOR, two)
        per_axis(two, store_sum, (array, index + channel, VECTOR, two))
        channel += 2 * VECTOR
    while channel < sizes.channels:
        width = min(VECTOR, sizes.channels - channel)
        one = per_axis((0,), load_sum, (array, index + channel, width, begun))
        one = add_samples_of(sizes, block, image, first, last, channel, width, one)
        per_axis(one, store_sum, (array, index + channel, width, one))
        channel += VECTOR


@inlined
def sum_block(sizes: Any, block: Any, part: Any, image: Any, sums: Any) -> None:
    """Add the samples of a part of a block to the sums of its positions."""
    weigh_samples(sizes, block)
    for k in range(part.positions):
        index = index_in(sums, block, k, part.group, 0)
        those, begun = (k * part.taps, (k + 1) * part.taps), part.first_tap > 0
        sum_position(sizes, block, image, *those, sums.array, index, begun)


@loop
def sum_samples(
    sizes: Any, first: Any, last: Any, image: Any, table: Any, samples: Any, sums: Any
) -> None:
    """Write the sums of positions ``first`` to ``last``, see :class:`Positions`."""
    image, samples, sums = pointer_to(image), sum_pointers(samples), positions_pointer(sums)
    block, everything = new_sum_block(image), ((first, last), (0, sizes.groups))
    each_block(sizes, *everything, table, samples, block, sum_block, (image, sums))
