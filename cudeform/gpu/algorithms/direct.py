"""Convolutions in groups of a few channels: one pass over the samples, no columns, no product.

A product of matrices this thin would leave most of the device idle, and its columns would be the
largest array of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from cudeform.arrays import Operands
from cudeform.geometry import Geometry
from cudeform.gpu.call import (
    MAX_ELEMENTS_32,
    THREADS,
    Call,
    index_bits_of,
    pointer_of,
)
from cudeform.gpu.chunks import Chunk, Costs, chunks
from cudeform.gpu.device_api.kernel_source import Variant, widest
from cudeform.gpu.device_api.protocol import Device, DeviceArray
from cudeform.gpu.layouts import ChannelsLast, readable
from cudeform.options import Options

# Input channels times output channels of a group, at most: what a thread keeps in registers grows
# with it, and so does what a product of matrices would make of each sample.
MAX_PRODUCT = 4

# What the threads that share a position read of a pixel: a line of the cache.
LINE_BYTES = 128

# Parts of the positions whose shares of the weight's gradient are summed apart. They depend on the
# sizes alone, and so do the bits of the sum.
PART_POSITIONS = 1024
MOST_PARTS = 256
SUM_ITEMS = 8  # sums that a block of reduce_grad_weight finishes at a time


def supports(g: Geometry) -> bool:
    """Whether the direct kernels take this convolution.

    They do where a group has few channels, ``C/groups * O/groups <= MAX_PRODUCT``: depthwise
    convolutions with 1 to 4 filters a channel, and groups of 2, 3 or 4 channels with few outputs.
    Each group must lie within one offset group.
    """
    group_in, group_out = _group(g)
    few = 1 <= group_in * group_out <= MAX_PRODUCT
    few = few and sums_of(g) <= MAX_ELEMENTS_32  # what reduce_grad_weight counts
    return few and g.channels // g.offset_groups % group_in == 0


def vector_of(g: Geometry, dtype: str) -> int:
    """Channels that a thread loads at a time: 16 bytes of them where they are whole groups."""
    wide = widest(dtype)
    whole = wide % _group(g)[0] == 0 and g.channels // g.offset_groups % wide == 0
    return wide if whole else 1


def forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    """Queue the deformable convolution of ``operands`` into ``output``, contiguous."""
    call = call_of(device, g, options, operands, [])
    # No sum is cut by a chunk, so there is no need to cut the same way every time.
    pieces = chunks(g, device, replace(options, deterministic=False), costs_of(call))
    images, packed = images_of(call, pieces), weight_of(call)
    weight = packed.part(*whole(g)).pointer
    for chunk in pieces:
        table = images.part(chunk.images, slice(0, g.in_h))
        pointers = (
            *sources(call, table),
            weight,
            pointer_of(operands.bias),
            output.pointer,
        )
        bias = 0 if operands.bias is None else operands.bias.strides[0]
        fields = call.chunk_fields(chunk, table) | {"lanes": tile_lanes(call), "bias_stride": bias}
        tiles = -(-call.positions(chunk) // slots(call)) * tiles_across(call)
        launch(call, "deform_direct", tiles * THREADS, pointers, fields)


def tile_lanes(call: Call) -> int:
    """Threads that share a position: a line of the input between them, if they divide its units."""
    unit_bytes = _unit(call) * call.itemsize
    return lanes_of(call, min(32, max(1, LINE_BYTES // unit_bytes)))


def slots(call: Call) -> int:
    """Positions of a tile."""
    return THREADS // tile_lanes(call)


def tiles_across(call: Call) -> int:
    """Tiles that make up all channels."""
    return call.g.channels // (_unit(call) * tile_lanes(call))


def lanes_of(call: Call, most: int) -> int:
    """The most threads, a power of 2, that divide the units of an offset group evenly."""
    units = call.g.channels // call.g.offset_groups // _unit(call)
    return min(1 << (most.bit_length() - 1), units & -units)


def _unit(call: Call) -> int:
    """Input channels that a thread takes, UNIT_IN."""
    return max(call.variant.vector, call.variant.group_in)


def _tile_bytes(call: Call) -> int:
    """Bytes of the outputs of a tile of the forward, with a gap behind those of each channel."""
    group_in, group_out = _group(call.g)
    outputs = _unit(call) // group_in * group_out * tile_lanes(call)
    return outputs * (slots(call) + 1) * call.itemsize


def _group(g: Geometry) -> tuple[int, int]:
    """Channels of a group, of the input and of the output."""
    return g.channels // g.groups, g.out_channels // g.groups


def call_of(
    device: Device,
    g: Geometry,
    options: Options,
    operands: Operands,
    others: Sequence[DeviceArray],
) -> Call:
    """A call whose groups are compiled in, and that also reads ``others``."""
    dtype = operands.input.dtype
    bits = index_bits_of(g, [*operands.present().values(), *others], parts_of(g) * sums_of(g))
    variant = Variant(dtype, bits, vector_of(g, dtype), *_group(g))
    return Call(device, g, operands, variant, options.boundary_grad == "zero")


def launch(
    call: Call, name: str, items: int, pointers: Sequence[int], fields: dict[str, object]
) -> None:
    """Run a kernel that keeps plans in shared memory, and then sums or a tile of outputs."""
    shared = max(THREADS * call.plan_bytes, _tile_bytes(call))
    call.launch(name, items, pointers, fields, shared_bytes=shared)


def sources(call: Call, images: DeviceArray) -> tuple[int, int, int]:
    """Addresses of what a sample is made of."""
    operands = call.operands
    return images.pointer, operands.offset.pointer, pointer_of(operands.mask)


def images_of(call: Call, pieces: Sequence[Chunk]) -> ChannelsLast:
    """The input for kernels that sample it."""
    pixels = max(chunk.count for chunk in pieces) * call.g.in_pixels
    return ChannelsLast(call, call.operands.input, pixels, dense=False)


def weight_of(call: Call) -> ChannelsLast:
    """The weight as (C/groups, KH*KW, O), by the kernel that puts channels last."""
    weight = call.operands.weight
    n, c, h, w = weight.strides
    out_channels, group_in, kernel_h, kernel_w = weight.shape
    shape = (group_in, out_channels, kernel_h, kernel_w)
    turned = DeviceArray(weight.pointer, shape, (c, n, h, w), weight.dtype)
    return ChannelsLast(call, turned, group_in * kernel_h * kernel_w, dense=True)


def whole(g: Geometry) -> tuple[slice, slice]:
    """All of the weight, as a part of it."""
    return slice(0, g.channels // g.groups), slice(0, g.kernel_h)


def parts_of(g: Geometry) -> int:
    """Parts of the positions whose sums are made apart."""
    return min(MOST_PARTS, -(-g.batch * g.out_pixels // PART_POSITIONS))


def sums_of(g: Geometry) -> int:
    """Elements of the gradient of weight and bias."""
    return (g.taps * (g.channels // g.groups) + 1) * g.out_channels


def costs_of(call: Call) -> Costs:
    """What the input and the weight cost."""
    g, size = call.g, call.itemsize
    as_it_is = readable(call, call.operands.input, dense=False)
    return Costs(
        call=prod(g.weight_shape) * size,
        image=0 if as_it_is else g.channels * g.in_pixels * size,
        position=0,
    )
