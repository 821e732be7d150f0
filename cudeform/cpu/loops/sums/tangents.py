"""The loops over samples of forward mode and of the double backward. See ``loops/tangents.py``.

Arguments as in ``gather.py``. ``tangents`` are those of offset and mask, with the form of
``samples``; the tangent of an image has the strides of the image, and is 0 if ``has_image_tangent``
is False.
"""

from __future__ import annotations

from typing import Any

from cudeform.cpu.loops.coordinates import BLOCK, FLAGS, MASK, NAN_COORD, fractions
from cudeform.cpu.loops.jit import inlined, loop
from cudeform.cpu.loops.sampling import weighted_corners
from cudeform.cpu.loops.scatter import corners_receiving_grad, scatter_run
from cudeform.cpu.loops.sums.arguments import positions_pointer, sum_pointers
from cudeform.cpu.loops.sums.coordinates import (
    FACTOR,
    begin_positions,
    begin_taps,
    index_in,
    level_of,
    locate_samples,
    new_sum_block,
)
from cudeform.cpu.loops.sums.scatter import run_sizes
from cudeform.cpu.loops.tangents import masked_weights, weight_tangents
from cudeform.cpu.loops.vectors import (
    VECTOR,
    add,
    load_vector_if,
    pointer_to,
    scalar_like,
    splat,
    store_vector,
)


@inlined
def tangents_of(block: Any, tangents: Any, k: Any, sample: Any, group: Any, tap: Any) -> Any:
    """Tangents of the displacements (x, y) and of the mask of a sample at position ``k``."""
    offset, mask = tangents
    along_x = along_y = along_mask = scalar_like(block.numbers, 0)
    if offset.present:
        index = index_in(offset, block, k, group, tap)
        along_x = block.numbers[FACTOR + sample] * offset.array[index]
        along_y = block.numbers[FACTOR + BLOCK + sample] * offset.array[index + offset.pair]
    if mask.present:
        along_mask = mask.array[index_in(mask, block, k, group, tap)]
    return (along_x, along_y), along_mask


@inlined
def add_tangent(
    level: Any,
    block: Any,
    sample: Any,
    image: Any,
    image_tangent: Any,
    has_image_tangent: Any,
    tangent_weights: Any,
    array: Any,
    index: Any,
    channels: Any,
) -> None:
    """Add the tangent of a sample to that of a sum."""
    flags, mask = block.integers[FLAGS + sample], block.numbers[MASK + sample]
    weights = masked_weights(level, flags, fractions(level, block, sample), mask)
    lost = splat(mask if flags & NAN_COORD else scalar_like(image, 0))
    for channel in range(0, channels, VECTOR):
        width, pixel = min(VECTOR, channels - channel), block.pixels[sample] + channel
        value = weighted_corners(level, image, pixel, flags, tangent_weights, width, lost)
        if has_image_tangent:
            value = weighted_corners(level, image_tangent, pixel, flags, weights, width, value)
        before = load_vector_if(True, array, index + channel, width)
        store_vector(array, index + channel, width, add(before, value))


@loop
def sum_tangents(
    sizes: Any,
    first: Any,
    last: Any,
    image: Any,
    image_tangent: Any,
    has_image_tangent: Any,
    table: Any,
    samples: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    sums: Any,
) -> None:
    """Write the tangents of the sums of positions ``first`` to ``last``."""
    image, image_tangent = pointer_to(image), pointer_to(image_tangent)
    samples, tangents = sum_pointers(samples), sum_pointers(tangents)
    sums = positions_pointer(sums)
    block, zero = new_sum_block(image), splat(scalar_like(image, 0))
    for first_tap in range(0, sizes.taps, BLOCK):
        taps, positions = begin_taps(sizes, block, table, first_tap)
        for group in range(sizes.groups):
            for position in range(first, last, positions):
                count = min(positions, last - position)
                begin_positions(sizes, block, position, count)
                locate_samples(sizes, block, count, first_tap, taps, group, samples)
                for k in range(count):
                    index = index_in(sums, block, k, group, 0)
                    if first_tap == 0:
                        for channel in range(0, sizes.channels, VECTOR):
                            width = min(VECTOR, sizes.channels - channel)
                            store_vector(sums.array, index + channel, width, zero)
                    for tap in range(taps):
                        sample = k * taps + tap
                        level = level_of(sizes, block, sample)
                        along = tangents_of(block, tangents, k, sample, group, first_tap + tap)
                        tangent_weights = weight_tangents(
                            block.integers[FLAGS + sample],
                            fractions(level, block, sample),
                            block.numbers[MASK + sample],
                            along,
                            zero_boundary_grad,
                        )
                        add_tangent(
                            level,
                            block,
                            sample,
                            image,
                            image_tangent,
                            has_image_tangent,
                            tangent_weights,
                            sums.array,
                            index,
                            sizes.channels,
                        )


@loop
def sum_scatter_tangents(
    sizes: Any,
    first: Any,
    last: Any,
    group: Any,
    first_channel: Any,
    last_channel: Any,
    table: Any,
    samples: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    grad_output: Any,
    grad_image: Any,
) -> None:
    """As ``scatter.sum_scatter``, with tangents of the corner weights in place of the weights."""
    samples, tangents = sum_pointers(samples), sum_pointers(tangents)
    grad_output, grad_image = positions_pointer(grad_output), pointer_to(grad_image)
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
                for tap in range(taps):
                    sample = k * taps + tap
                    run = run_sizes(sizes, block, sample, channels)
                    flags = block.integers[FLAGS + sample]
                    along = tangents_of(block, tangents, k, sample, group, first_tap + tap)
                    tangent_weights = weight_tangents(
                        flags,
                        fractions(run, block, sample),
                        block.numbers[MASK + sample],
                        along,
                        zero_boundary_grad,
                    )
                    scatter_run(
                        run,
                        grad_image,
                        block.pixels[sample] + first_channel,
                        corners_receiving_grad(run, flags, tangent_weights),
                        tangent_weights,
                        grad_output.array,
                        grad_index,
                    )
