"""Backward: gradients of offset and mask box by box, then the gradient of the images.

Each group of an image receives from all positions of that image. One thread adds them up, in the
order of the positions, for a range of channels of a group; so the sums have the same order for any
number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cudeform.arrays import Gradients, Operands
from cudeform.cpu.images import copy_images
from cudeform.cpu.loops.sums.arguments import Positions, SumSamples, SumSizes, TapTable
from cudeform.cpu.loops.sums.gradients import sum_gradients
from cudeform.cpu.loops.sums.scatter import sum_scatter
from cudeform.cpu.loops.vectors import VECTOR
from cudeform.cpu.sums.arrays import BoxArrays, element_strides, first_element
from cudeform.cpu.sums.call import Array, SumCall, output_array, sample_arrays
from cudeform.cpu.sums.images import SumImages, image_memory, images_of, in_place
from cudeform.cpu.tiling import Box
from cudeform.options import Options
from cudeform.partition import split
from cudeform.sums_geometry import SumGeometry


def sums_backward(
    operands: Operands, g: SumGeometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    if g.is_empty:
        fill_zero(grads)
        return
    like = operands.input
    read = (
        *sample_arrays(operands.offset, operands.mask, like),
        output_array(grad_output, like),
    )
    arrays = BoxArrays(g, read, sample_arrays(grads.offset, grads.mask, like))
    images = [like] if grads.input is None else [like, grads.input]
    call = SumCall.of(g, options, images, arrays)
    if not (grads.offset is grads.mask is None):
        _write_sample_gradients(call, like, arrays)
    if grads.input is not None:
        scatter_images(call, grads.input, BoxArrays(g, read), _scatter)


def fill_zero(results: tuple[Array | None, ...]) -> None:
    """Set results that no sample contributes to."""
    for array in results:
        if array is not None:
            array[...] = 0


def _write_sample_gradients(call: SumCall, input: Array, arrays: BoxArrays) -> None:
    zero_boundary_grad = call.options.boundary_grad == "zero"
    for images in images_of(call, input):

        def work(box: Box, buffers: list[Array], images: SumImages = images) -> None:
            image = images.first(box.images.start)
            with arrays.layouts(box, buffers) as (offset, mask, grad_output, *grads):
                sum_gradients(
                    images.sizes,
                    box.first,
                    box.last,
                    image,
                    images.table,
                    SumSamples(offset, mask),
                    grad_output,
                    SumSamples(*grads),
                    zero_boundary_grad,
                )

        call.run(work, call.boxes(images.images), lambda: arrays.buffers(call.positions))


class Target(NamedTuple):
    """What a thread adds to: a range of the channels of a group of an image.

    Attributes:
        sizes, table: of the call, for images with the strides of the gradient.
        image: number of the image in the batch.
        group: the group.
        channels: the range.
        grad_image: first element of the gradient of the image.
    """

    sizes: SumSizes
    table: TapTable
    image: int
    group: int
    channels: slice
    grad_image: Array


Add = Callable[[SumCall, Target, Box, list[Positions]], None]


def _scatter(call: SumCall, target: Target, box: Box, layouts: list[Positions]) -> None:
    offset, mask, grad_output = layouts
    sum_scatter(
        target.sizes,
        box.first,
        box.last,
        target.group,
        target.channels.start,
        target.channels.stop,
        target.table,
        SumSamples(offset, mask),
        grad_output,
        target.grad_image,
    )


def scatter_images(call: SumCall, result: Array, arrays: BoxArrays, add: Add) -> None:
    """Write a gradient of images, to which ``add`` adds the part of a box and a target."""
    if in_place([result], call.dtype):
        copy_images(call, np.broadcast_to(result.dtype.type(0), result.shape), result)
        _scatter_into(call, result, 0, arrays, add)
        return
    memory = image_memory(call, result)
    for images in split(call.g.batch, call.images):
        sums = memory[: images.stop - images.start]
        sums[...] = 0
        _scatter_into(call, sums, images.start, arrays, add)
        copy_images(call, sums, result[images])


def _scatter_into(
    call: SumCall, sums: Array, first_image: int, arrays: BoxArrays, add: Add
) -> None:
    """Add to the gradients of images from ``first_image`` on."""
    g, strides = call.g, element_strides(sums)
    sizes, table = SumSizes.of(g, strides), TapTable.of(g, strides, call.dtype)
    parts = channel_parts(call, len(sums))
    targets = [
        Target(sizes, table, first_image + n, group, part, first_element(sums[n]))
        for n in range(len(sums))
        for group in range(g.groups)
        for part in parts
    ]
    by_group = [arrays.of_group(group) for group in range(g.groups)]
    positions = call.positions if arrays.copied else g.out_pixels

    def work(target: Target, buffers: list[Array]) -> None:
        image = slice(target.image, target.image + 1)
        for part in split(g.out_pixels, positions):
            box = Box(part.start, part.stop, image)
            with by_group[target.group].layouts(box, buffers) as layouts:
                add(call, target, box, layouts)

    call.run(work, targets, lambda: by_group[0].buffers(positions))


def channel_parts(call: SumCall, images: int) -> list[slice]:
    """Ranges of the channels of a group, so that all threads have work.

    They do not change the result: the order of the sums of a channel is the same for any ranges.
    """
    wanted = -(-call.threads // (images * call.g.groups))
    length = -(-call.g.channels // wanted)
    return split(call.g.channels, -(-length // VECTOR) * VECTOR)
