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
from cudeform.cpu.loops.sums.blocks import each_block
from cudeform.cpu.loops.sums.coordinates import FACTOR, index_in, level_of, new_sum_block
from cudeform.cpu.loops.sums.dots import run_sizes
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
def tangents_of(block: Any, tangents: Any, part: Any, k: Any, tap: Any) -> Any:
    """Tangents of the displacements (x, y) and of the mask of a tap at position ``k``."""
    offset, mask = tangents
    along_x = along_y = along_mask = scalar_like(block.numbers, 0)
    at, sample = (k, part.group, part.first_tap + tap), k * part.taps + tap
    if offset.present:
        index = index_in(offset, block, *at)
        along_x = block.numbers[FACTOR + sample] * offset.array[index]
        along_y = block.numbers[FACTOR + BLOCK + sample] * offset.array[index + offset.pair]
    if mask.present:
        along_mask = mask.array[index_in(mask, block, *at)]
    return (along_x, along_y), along_mask


@inlined
def weight_tangents_of(
    sizes: Any, block: Any, sample: Any, along: Any, zero_boundary_grad: Any
) -> Any:
    """Tangents of the weights of the corners of a sample, along those of offset and mask."""
    return weight_tangents(
        block.integers[FLAGS + sample],
        fractions(level_of(sizes, block, sample), block, sample),
        block.numbers[MASK + sample],
        along,
        zero_boundary_grad,
    )


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
    start = splat(mask if flags & NAN_COORD else scalar_like(image, 0))
    for channel in range(0, channels, VECTOR):
        width, pixel = min(VECTOR, channels - channel), block.pixels[sample] + channel
        value = weighted_corners(level, image, pixel, flags, tangent_weights, width, start)
        if has_image_tangent:
            value = weighted_corners(level, image_tangent, pixel, flags, weights, width, value)
        before = load_vector_if(True, array, index + channel, width)
        store_vector(array, index + channel, width, add(before, value))


@inlined
def clear_sum(sums: Any, index: Any, channels: Any) -> None:
    """Set the sum of a position to 0."""
    for channel in range(0, channels, VECTOR):
        width = min(VECTOR, channels - channel)
        store_vector(sums, index + channel, width, splat(scalar_like(sums, 0)))


@inlined
def sum_tangents_of(
    sizes: Any,
    block: Any,
    part: Any,
    image: Any,
    image_tangent: Any,
    has_image_tangent: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    sums: Any,
) -> None:
    """Add the tangents of the samples of a part of a block to those of the sums."""
    for k in range(part.positions):
        index = index_in(sums, block, k, part.group, 0)
        if part.first_tap == 0:
            clear_sum(sums.array, index, sizes.channels)
        for tap in range(part.taps):
            sample = k * part.taps + tap
            along = tangents_of(block, tangents, part, k, tap)
            add_tangent(
                level_of(sizes, block, sample),
                block,
                sample,
                image,
                image_tangent,
                has_image_tangent,
                weight_tangents_of(sizes, block, sample, along, zero_boundary_grad),
                sums.array,
                index,
                sizes.channels,
            )


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
    sums, block = positions_pointer(sums), new_sum_block(image)
    work = image, image_tangent, has_image_tangent, tangents, zero_boundary_grad, sums
    everything = (first, last), (0, sizes.groups)
    each_block(sizes, *everything, table, samples, block, sum_tangents_of, work)


@inlined
def scatter_tangents_of(
    sizes: Any,
    block: Any,
    part: Any,
    channels: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    grad_output: Any,
    grad_image: Any,
) -> None:
    """Add the samples of a part of a block to the gradient of an image."""
    for k in range(part.positions):
        grad_index = index_in(grad_output, block, k, part.group, 0) + channels[0]
        for tap in range(part.taps):
            sample = k * part.taps + tap
            run = run_sizes(sizes, block, sample, channels[1] - channels[0])
            along = tangents_of(block, tangents, part, k, tap)
            weights = weight_tangents_of(sizes, block, sample, along, zero_boundary_grad)
            scatter_run(
                run,
                grad_image,
                block.pixels[sample] + channels[0],
                corners_receiving_grad(run, block.integers[FLAGS + sample], weights),
                weights,
                grad_output.array,
                grad_index,
            )


@loop
def sum_scatter_tangents(
    sizes: Any,
    first: Any,
    last: Any,
    groups: Any,
    channels: Any,
    table: Any,
    samples: Any,
    tangents: Any,
    zero_boundary_grad: Any,
    grad_output: Any,
    grad_image: Any,
) -> None:
    """As ``gradients.sum_gradients`` adds to the gradient of an image, with tangents of the corner
    weights in place of the weights."""
    samples, tangents = sum_pointers(samples), sum_pointers(tangents)
    grad_output, grad_image = positions_pointer(grad_output), pointer_to(grad_image)
    block = new_sum_block(grad_image)
    work = channels, tangents, zero_boundary_grad, grad_output, grad_image
    each_block(sizes, (first, last), groups, table, samples, block, scatter_tangents_of, work)
