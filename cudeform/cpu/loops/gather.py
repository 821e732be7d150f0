"""Loops that gather columns from images, or sum over taps for a depthwise weight without columns.

Arguments as in ``sampling.py``.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.arguments import pointers
from cudeform.cpu.loops.coordinates import FLAGS, MASK, begin_block, fractions, locate, new_block
from cudeform.cpu.loops.corners import corner_weights
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import (
    column_index,
    contributing_corners,
    position_step,
    weighted_corners,
)
from cudeform.cpu.loops.unrolled import all_corners
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add_product,
    load_vector,
    pointer_to,
    scalar_like,
    scaled,
    splat,
    store_vector,
)


@inlined
def gather_run(
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    weights: Any,
    mask: Any,
    columns: Any,
    column: Any,
) -> None:
    """Write a run of channels of a sample to the columns.

    The mask multiplies the sample, not its corners: infinity times a corner weight of 0 is NaN.
    """
    zero = splat(scalar_like(image, 0))
    done, whole, every = 0, sizes.run - sizes.run % VECTOR, all_corners(sizes.size)
    if corners == every:
        for c in range(0, whole, VECTOR):
            value = weighted_corners(sizes, image, pixel + c, every, weights, VECTOR, zero)
            store_vector(columns, column + c, VECTOR, scaled(mask, value))
        done = whole
    for c in range(done, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        value = weighted_corners(sizes, image, pixel + c, corners, weights, count, zero)
        store_vector(columns, column + c, count, scaled(mask, value))


@loop
def gather_columns(
    sizes: Any, first: Any, last: Any, image: Any, samples: Any, columns: Any, layout: Any
) -> None:
    """Sample the images at every tap of a range of positions, and write ``columns``."""
    image, columns, samples = pointer_to(image), pointer_to(columns), pointers(samples)
    offset_channels = sizes.channels // sizes.offset_groups
    block = new_block(image)
    position = first
    while position < last:
        n, count = begin_block(sizes, block, position, last)
        for tap in range(sizes.taps):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                for c in range(0, offset_channels, sizes.run):
                    column = column_index(sizes, layout, og * offset_channels + c, position, tap)
                    for k in range(count):
                        gather_run(
                            sizes,
                            image,
                            block.pixels[k] + c,
                            contributing_corners(sizes, block.integers[FLAGS + k]),
                            corner_weights(fractions(sizes, block, k)),
                            block.numbers[MASK + k],
                            columns,
                            column + k * position_step(sizes),
                        )
        position += count


@inlined
def add_vector(
    weight: Any, channel: Any, mask: Any, value: Any, sums: Any, to: Any, count: Any
) -> None:
    """Add ``count`` channels of a sample, times the weight of each, to the sums of a position."""
    factor = load_vector(weight, channel, count)
    total = add_product(load_vector(sums, to, count), factor, scaled(mask, value))
    store_vector(sums, to, count, total)


@inlined
def add_run(
    sizes: Any,
    image: Any,
    pixel: Any,
    corners: Any,
    weights: Any,
    mask: Any,
    weight: Any,
    channel: Any,
    sums: Any,
    to: Any,
) -> None:
    """Add a run of channels of a sample, times the weight of each, to the sums of a position."""
    zero = splat(scalar_like(image, 0))
    done, whole, every = 0, sizes.run - sizes.run % VECTOR, all_corners(sizes.size)
    if corners == every:
        for c in range(0, whole, VECTOR):
            value = weighted_corners(sizes, image, pixel + c, every, weights, VECTOR, zero)
            add_vector(weight, channel + c, mask, value, sums, to + c, VECTOR)
        done = whole
    for c in range(done, sizes.run, VECTOR):
        count = min(VECTOR, sizes.run - c)
        value = weighted_corners(sizes, image, pixel + c, corners, weights, count, zero)
        add_vector(weight, channel + c, mask, value, sums, to + c, count)


@loop
def add_samples(
    sizes: Any, first: Any, last: Any, image: Any, samples: Any, weight: Any, sums: Any
) -> None:
    """Add the samples of each position, times a depthwise weight, to its sums.

    Args:
        sizes, first, last, image, samples: as in ``sampling.py``.
        weight: flat, (taps, C).
        sums: flat, (positions, C); accumulated into.
    """
    image, weight, sums = pointer_to(image), pointer_to(weight), pointer_to(sums)
    samples = pointers(samples)
    channels = sizes.channels
    block = new_block(image)
    position = first
    while position < last:
        n, count = begin_block(sizes, block, position, last)
        for tap in range(sizes.taps):
            for og in range(sizes.offset_groups):
                locate(sizes, block, n, position, count, tap, og, samples)
                channel = og * (channels // sizes.offset_groups)
                for k in range(count):
                    add_run(
                        sizes,
                        image,
                        block.pixels[k],
                        contributing_corners(sizes, block.integers[FLAGS + k]),
                        corner_weights(fractions(sizes, block, k)),
                        block.numbers[MASK + k],
                        weight,
                        tap * channels + channel,
                        sums,
                        (position + k - first) * channels + channel,
                    )
        position += count
