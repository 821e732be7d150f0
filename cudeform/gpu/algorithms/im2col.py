"""Forward by im2col: for each chunk, fill the columns, then one matrix product writes the output.

The columns have the shape (groups, positions, ld_columns). The row of a position holds its samples,
the channels of the group for each tap, then a 1 if there is a bias, then zeros up to a multiple of
16 bytes.
"""

from __future__ import annotations

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu import costs, products
from cudeform.gpu.call import THREADS, Call, ld_columns_of, most_positions, pointer_of
from cudeform.gpu.chunks import Chunk, cut_into_chunks
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.kernel_source import ITEMSIZE
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.layouts import input_images, pack_weight
from cudeform.options import Options


def forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    """Queue the deformable convolution of ``operands`` into ``output``, contiguous."""
    chunks = cut_into_chunks(g, device, options, _costs(g, operands))
    call = Call.by_columns(device, g, options, operands, chunks)
    weight = pack_weight(call)
    columns = allocate_columns(call, chunks)
    images = input_images(call, chunks)
    for chunk in chunks:
        fill_columns(call, chunk, images.part(chunk.images), columns)
        products.output(call, chunk, columns, weight, output, options.allow_tf32)


def _costs(g: Geometry, operands: Operands) -> Costs:
    size, ld = ITEMSIZE[operands.input.dtype], ld_columns_of(g, operands)
    return costs.packed_weight(g, ld, size) + costs.images(g, size) + costs.columns(g, ld, size)


def allocate_columns(call: Call, chunks: list[Chunk]) -> Memory:
    """Memory for the columns of the largest chunk."""
    return call.allocate(most_positions(call.g, chunks) * call.g.groups * call.ld_columns)


def fill_columns(call: Call, chunk: Chunk, images: DeviceArray, columns: Memory) -> None:
    """Sample channels-last images into the columns of a chunk."""
    operands = call.operands
    pointers = (
        images.pointer,
        operands.offset.pointer,
        pointer_of(operands.mask),
        columns.pointer,
    )
    struct = conv_params.Im2col(call.sampling(chunk, images), call.column_layout(chunk))
    shared = THREADS * call.record_bytes
    call.launch("deform_im2col", call.samples(chunk), pointers, struct, shared_bytes=shared)
