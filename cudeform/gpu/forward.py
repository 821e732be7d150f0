"""Forward on a device, one of three ways.

* ``direct``: groups of a few channels, no columns and no products.
* ``fused``: one kernel samples and multiplies on tensor cores, no columns.
* ``im2col``: everything else; per chunk, ``deform_im2col`` and one product that writes the output.
"""

from __future__ import annotations

from cudeform.arrays import Operands
from cudeform.geometry import Geometry
from cudeform.gpu import products
from cudeform.gpu.algorithms import direct, forward_algorithm, fused
from cudeform.gpu.call import THREADS, Call, most_positions, pointer_of, row_of
from cudeform.gpu.chunks import Chunk, Costs, chunks
from cudeform.gpu.device_api.kernel_source import ITEMSIZE
from cudeform.gpu.device_api.protocol import Device, DeviceArray, Memory
from cudeform.gpu.layouts import ChannelsLast, pack_weight
from cudeform.options import Options


def forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    """Queue the deformable convolution of ``operands`` into ``output``, contiguous."""
    if 0 in g.output_shape:
        return
    arrays = [*operands.present().values(), output]
    algorithm = forward_algorithm(g, operands.input.dtype, device, arrays)
    if algorithm == "direct":
        direct.forward(device, operands, g, options, output)
    elif algorithm == "fused":
        fused.forward(device, operands, g, options, output)
    else:
        _im2col_forward(device, operands, g, options, output)


def _im2col_forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    pieces = chunks(g, device, options, _costs(g, operands))
    call = Call.of(device, g, options, operands, pieces)
    weight = pack_weight(call)
    columns = call.allocate(most_positions(g, pieces) * row_of(g, operands))
    images = input_images(call, pieces)
    for chunk in pieces:
        im2col(call, chunk, images.part(chunk.images, slice(0, g.in_h)), columns)
        products.output(call, chunk, columns.pointer, weight.pointer, output, options.allow_tf32)


def _costs(g: Geometry, operands: Operands) -> Costs:
    size, row = ITEMSIZE[operands.input.dtype], row_of(g, operands)
    return Costs(
        call=g.out_channels * (row // g.groups) * size,
        image=g.channels * g.in_pixels * size,
        position=row * size,
    )


def input_images(call: Call, pieces: list[Chunk]) -> ChannelsLast:
    """The input for kernels that sample it."""
    pixels = max(chunk.count for chunk in pieces) * call.g.in_pixels
    return ChannelsLast(call, call.operands.input, pixels, dense=False)


def im2col(call: Call, chunk: Chunk, images: DeviceArray, columns: Memory) -> None:
    """Fill the columns of a chunk."""
    operands = call.operands
    pointers = (
        images.pointer,
        operands.offset.pointer,
        pointer_of(operands.mask),
        columns.pointer,
    )
    fields = call.chunk_fields(chunk, images)
    shared = THREADS * call.plan_bytes
    call.launch("deform_im2col", call.samples(chunk), pointers, fields, shared_bytes=shared)
