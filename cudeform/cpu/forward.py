"""Forward: for each box, gather the columns, multiply them by the weight, write the output."""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.arrays import Operands
from cudeform.cpu.call import Array, Call
from cudeform.cpu.images import Images, channels_last
from cudeform.cpu.layouts import Buffers, column_layout, read_only, write_product
from cudeform.cpu.loops.gather import add_samples, gather_columns
from cudeform.cpu.products import is_depthwise, output_of
from cudeform.cpu.threads import blas_on_one_thread
from cudeform.cpu.tiling import Box, Costs
from cudeform.geometry import Geometry
from cudeform.options import Options


def costs(g: Geometry, itemsize: int) -> Costs:
    """Scratch memory of a forward call that computes on numbers of ``itemsize`` bytes."""
    columns = g.taps * g.channels
    planes = (g.axes + 1) * g.offset_groups * g.taps
    weight = g.out_channels * g.taps * (g.channels // g.groups)
    return Costs(
        image=g.channels * g.in_pixels * itemsize,
        fixed=weight * itemsize,
        panel_position=0,
        box_position=(columns + planes + 2 * g.out_channels) * itemsize,
    )


def forward(operands: Operands, g: Geometry, options: Options, output: Array) -> None:
    """Write the deformable convolution of ``operands`` into ``output``."""
    call = Call.of(operands, g, options, costs)
    with blas_on_one_thread():
        for images in channels_last(call, operands.input):

            def work(box: Box, scratch: _Scratch, images: Images = images) -> None:
                _box(call, images, box, scratch, output)

            call.run(work, call.boxes(images.images), lambda: _Scratch.of(call))


@dataclass(frozen=True)
class _Scratch:
    """Scratch memory of one thread."""

    columns: Array
    product: Array
    planes: Buffers

    @classmethod
    def of(cls, call: Call) -> _Scratch:
        positions = call.tiling.positions
        return cls(
            columns=call.allocate_columns(),
            product=call.allocate_product(),
            planes=call.samples.buffers(positions),
        )


def _box(call: Call, images: Images, box: Box, scratch: _Scratch, output: Array) -> None:
    call.samples.read(box, box, scratch.planes)
    samples = call.samples.for_reading(box, scratch.planes)
    positions = box.first, box.last
    product = call.view_product(scratch.product, len(box))
    if is_depthwise(call.g):
        product[...] = 0
        weight, sums = read_only(call.weight.reshape(-1)), product.reshape(-1)
        add_samples(call.sizes, *positions, images.pixels, samples, weight, sums)
    else:
        columns = scratch.columns
        gather_columns(call.sizes, *positions, images.pixels, samples, columns, column_layout(box))
        output_of(call.g, call.weight, call.view_columns(columns, len(box)), product)
    write_product(call.g, product, call.operands.bias, box, output)
