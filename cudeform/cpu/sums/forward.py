"""Forward: for each box, sum the samples of its positions."""

from __future__ import annotations

from cudeform.arrays import Operands
from cudeform.cpu.loops.sums.arguments import SumSamples
from cudeform.cpu.loops.sums.gather import sum_samples
from cudeform.cpu.sums.arrays import BoxArrays
from cudeform.cpu.sums.call import Array, SumCall, output_array, sample_arrays
from cudeform.cpu.sums.images import SumImages, images_of
from cudeform.cpu.tiling import Box
from cudeform.options import Options
from cudeform.sums_geometry import SumGeometry


def sums_forward(operands: Operands, g: SumGeometry, options: Options, output: Array) -> None:
    """Write the sums of the samples of ``operands`` into ``output``."""
    if g.is_empty:
        output[...] = 0
        return
    read = sample_arrays(operands.offset, operands.mask, operands.input)
    arrays = BoxArrays(g, read, (output_array(output, operands.input),))
    call = SumCall.of(g, options, [operands.input], arrays)
    for images in images_of(call, [operands.input]):

        def work(box: Box, buffers: list[Array], images: SumImages = images) -> None:
            image = images.first(box.images.start)
            with arrays.layouts(box, buffers) as (offset, mask, sums):
                samples = SumSamples(offset, mask)
                sum_samples(images.sizes, box.first, box.last, image, images.table, samples, sums)

        call.run(work, call.boxes(images.images), lambda: arrays.buffers(call.positions))
