"""Backward: gradients of images, offset and mask.

If each thread has all channels of its groups, one pass over the samples computes all of them. With
more threads, one pass computes the gradients of offset and mask, and another one those of images.
"""

from __future__ import annotations

from cudeform.arrays import Gradients, Operands
from cudeform.cpu.loops.sums.arguments import Positions, SumSamples
from cudeform.cpu.loops.sums.gradients import sum_gradients
from cudeform.cpu.sums.arrays import BoxArrays
from cudeform.cpu.sums.call import Array, SumCall, output_array, sample_arrays
from cudeform.cpu.sums.images import SumImages, images_of
from cudeform.cpu.sums.shares import (
    Share,
    by_groups,
    by_positions,
    each_share,
    have_all_channels,
)
from cudeform.cpu.tiling import Box
from cudeform.options import Options
from cudeform.sums_geometry import SumGeometry


def sums_backward(
    operands: Operands, g: SumGeometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    if g.is_empty:
        fill_zero(grads)
        return
    like = operands.input
    of_samples = not (grads.offset is grads.mask is None)
    read = (
        *sample_arrays(operands.offset, operands.mask, like),
        output_array(grad_output, like),
    )
    every = BoxArrays(g, read, sample_arrays(grads.offset, grads.mask, like))
    no_grads = BoxArrays(g, read, sample_arrays(None, None, like))
    read_images = [like] if of_samples or grads.input is None else []
    written = [] if grads.input is None else [grads.input]
    call = SumCall.of(g, options, [*read_images, *written], every)
    for images in images_of(call, read_images, grads.input):
        shares = by_groups(call, images.images)
        one_pass = images.sums is not None and have_all_channels(call, shares)
        if of_samples and not one_pass:
            _each_share(call, by_positions(call, images.images), every, images, of_images=False)
        if images.sums is not None:
            arrays = every if one_pass else no_grads
            _each_share(call, shares, arrays, images, of_images=True)


def _each_share(
    call: SumCall, shares: list[Share], arrays: BoxArrays, images: SumImages, *, of_images: bool
) -> None:
    """Compute the gradients of some shares: of samples, of images or both."""
    zero_boundary_grad = call.options.boundary_grad == "zero"

    def loop(share: Share, box: Box, layouts: list[Positions]) -> None:
        offset, mask, grad_output, *grads = layouts
        sum_gradients(
            images.sizes,
            box.first,
            box.last,
            (share.groups.start, share.groups.stop),
            (share.channels.start, share.channels.stop),
            images.first(share.image),
            images.table,
            SumSamples(offset, mask),
            grad_output,
            SumSamples(*grads),
            zero_boundary_grad,
            images.first_sum(share.image),
            of_images,
        )

    each_share(call, shares, arrays, loop)


def fill_zero(results: tuple[Array | None, ...]) -> None:
    """Set results to which no sample contributes to 0."""
    for array in results:
        if array is not None:
            array[...] = 0
