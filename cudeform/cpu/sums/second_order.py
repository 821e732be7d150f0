"""Forward mode, and the double backward: gradients of ``sum(cotangents * first gradients)``.

That sum equals ``sum(grad_output * output_tangent)`` along the cotangents. So its gradient with
respect to grad_output is a tangent of the output, and those with respect to the operands are second
derivatives.
"""

from __future__ import annotations

from collections.abc import Callable

from cudeform.arrays import DoubleGradients, Operands, Tangents
from cudeform.cpu.loops.sums.arguments import Positions, SumSamples
from cudeform.cpu.loops.sums.second_gradients import second_sum_gradients
from cudeform.cpu.loops.sums.tangents import sum_scatter_tangents, sum_tangents
from cudeform.cpu.sums.arrays import BoxArrays
from cudeform.cpu.sums.backward import fill_zero
from cudeform.cpu.sums.call import Array, SumCall, output_array, sample_arrays
from cudeform.cpu.sums.images import SumImages, images_of
from cudeform.cpu.sums.shares import Share, by_groups, each_share
from cudeform.cpu.tiling import Box
from cudeform.options import Options
from cudeform.sums_geometry import SumGeometry

Loop = Callable[[SumCall, SumImages, Box, list[Positions]], None]


def sums_jvp(
    operands: Operands,
    g: SumGeometry,
    options: Options,
    tangents: Tangents,
    output_tangent: Array,
) -> None:
    """Write the tangent of the output along ``tangents`` into ``output_tangent``."""
    if g.is_empty:
        output_tangent[...] = 0
        return
    arrays = _tangent_arrays(operands, g, tangents, output_tangent)
    call = SumCall.of(g, options, _images(operands, tangents), arrays)
    _each_box(call, operands, tangents, arrays, _write_tangents)


def sums_double_backward(
    operands: Operands,
    g: SumGeometry,
    options: Options,
    grad_output: Array,
    cotangents: Tangents,
    results: DoubleGradients,
) -> None:
    """Write the gradients of ``sum(cotangents * first gradients)`` into ``results``."""
    if g.is_empty:
        fill_zero(results)
        return
    like = operands.input
    tangent_arrays = _tangent_arrays(operands, g, cotangents, results.grad_output)
    read = (*tangent_arrays.read, output_array(grad_output, like))
    arrays = BoxArrays(g, read, sample_arrays(results.offset, results.mask, like))
    images = _images(operands, cotangents)
    images += [] if results.input is None else [results.input]
    call = SumCall.of(g, options, images, arrays, tangent_arrays)
    if results.grad_output is not None:
        _each_box(call, operands, cotangents, tangent_arrays, _write_tangents)
    if not (results.offset is results.mask is None):
        _each_box(call, operands, cotangents, arrays, _write_second_gradients)
    if results.input is not None:
        for sums in images_of(call, [], results.input):
            _scatter(call, sums, BoxArrays(g, read))


def _images(operands: Operands, tangents: Tangents) -> list[Array]:
    return [each for each in (operands.input, tangents.input) if each is not None]


def _tangent_arrays(
    operands: Operands, g: SumGeometry, tangents: Tangents, output_tangent: Array | None
) -> BoxArrays:
    """The arrays of forward mode: samples and their tangents, and the output's tangent."""
    like = operands.input
    samples = sample_arrays(operands.offset, operands.mask, like)
    along = sample_arrays(tangents.offset, tangents.mask, like)
    return BoxArrays(g, (*samples, *along), (output_array(output_tangent, like),))


def _each_box(
    call: SumCall, operands: Operands, tangents: Tangents, arrays: BoxArrays, loop: Loop
) -> None:
    """Run a loop on the positions of every box."""
    for images in images_of(call, [operands.input, tangents.input]):

        def work(box: Box, buffers: list[Array], images: SumImages = images) -> None:
            with arrays.layouts(box, buffers) as layouts:
                loop(call, images, box, layouts)

        call.run(work, call.boxes(images.images), lambda: arrays.buffers(call.positions))


def _image_arguments(images: SumImages, box: Box) -> tuple[Array, Array, bool]:
    """The image of a box, the tangent of the image, and whether there is one."""
    n, has_tangent = box.images.start, len(images.arrays) > 1
    return images.first(n), images.first(n, int(has_tangent)), has_tangent


def _write_tangents(call: SumCall, images: SumImages, box: Box, layouts: list[Positions]) -> None:
    offset, mask, *along, sums = layouts
    sum_tangents(
        images.sizes,
        box.first,
        box.last,
        *_image_arguments(images, box),
        images.table,
        SumSamples(offset, mask),
        SumSamples(*along),
        call.options.boundary_grad == "zero",
        sums,
    )


def _write_second_gradients(
    call: SumCall, images: SumImages, box: Box, layouts: list[Positions]
) -> None:
    offset, mask, offset_tangent, mask_tangent, grad_output, *grads = layouts
    second_sum_gradients(
        images.sizes,
        box.first,
        box.last,
        *_image_arguments(images, box),
        images.table,
        SumSamples(offset, mask),
        SumSamples(offset_tangent, mask_tangent),
        grad_output,
        SumSamples(*grads),
        call.options.boundary_grad == "zero",
    )


def _scatter(call: SumCall, images: SumImages, arrays: BoxArrays) -> None:
    def loop(share: Share, box: Box, layouts: list[Positions]) -> None:
        offset, mask, offset_tangent, mask_tangent, grad_output = layouts
        sum_scatter_tangents(
            images.sizes,
            box.first,
            box.last,
            (share.groups.start, share.groups.stop),
            (share.channels.start, share.channels.stop),
            images.table,
            SumSamples(offset, mask),
            SumSamples(offset_tangent, mask_tangent),
            call.options.boundary_grad == "zero",
            grad_output,
            images.first_sum(share.image),
        )

    each_share(call, by_groups(call, images.images), arrays, loop)
