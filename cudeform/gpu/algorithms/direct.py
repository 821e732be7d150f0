"""Forward of convolutions in groups of a few channels: one kernel, no columns, no matrix product.

A matrix product with so few rows would leave most of the device idle, and its columns would be the
largest array of the call.

A thread takes a *channel slice*: a few contiguous input channels, whole groups and whole vectors,
and the output channels of these groups. Some adjacent threads, the *lanes*, take the slices of one
position, and a block takes as many positions as that leaves it threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.call import THREADS, Call, pointer_of
from cudeform.gpu.chunks import cut_into_chunks
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import params
from cudeform.gpu.device_api.kernel_source import Variant, widest
from cudeform.gpu.device_api.protocol import Device
from cudeform.gpu.device_api.structs import Struct
from cudeform.gpu.layouts import ChannelsLast, input_images, needs_no_copy
from cudeform.gpu.variants import MAX_ELEMENTS_32, index_bits_of
from cudeform.options import Options

# Input channels times output channels of a group, at most. A thread's registers grow with it, and
# so does the work for each sample, which a matrix product would do better.
MAX_PRODUCT = 4

# Bytes of a pixel that the lanes of a position read together: a cache line.
LINE_BYTES = 128

# The gradient of the weight is summed over ranges of positions, the splits, separately, and then
# over these. Their number depends on sizes alone, and so do the bits of the sum.
SPLIT_POSITIONS = 1024
MAX_SPLITS = 256


def supports(g: Geometry) -> bool:
    """Whether the direct kernels can compute a convolution.

    They can where a group has few channels, ``C/groups * O/groups <= MAX_PRODUCT``: depthwise
    convolutions with 1 to 4 filters a channel, and groups of 2, 3 or 4 channels with few outputs.
    Each group must lie within one offset group.
    """
    group_in, group_out = group_channels(g)
    if not 1 <= group_in * group_out <= MAX_PRODUCT:
        return False
    # reduce_grad_weight has 32-bit indices
    return grad_elements(g) <= MAX_ELEMENTS_32 and g.channels // g.offset_groups % group_in == 0


def forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    """Queue the deformable convolution of ``operands`` into ``output``, contiguous."""
    call = direct_call(device, g, options, operands, [])
    # No sum crosses chunks, so a deterministic call may have any chunks.
    options = replace(options, deterministic=False)
    chunks = cut_into_chunks(g, device, options, operand_costs(call))
    images, weight = input_images(call, chunks), packed_weight(call)
    pointers = (weight.whole().pointer, pointer_of(operands.bias), output.pointer)
    bias_stride = 0 if operands.bias is None else operands.bias.strides[0]
    for chunk in chunks:
        part = images.part(chunk.images)
        struct = params.Direct(call.sampling(chunk, part, block_lanes(call)), bias_stride)
        blocks = -(-call.positions(chunk) // block_positions(call)) * slice_blocks(call)
        launch(
            call, "deform_direct", blocks * THREADS, sample_pointers(call, part) + pointers, struct
        )


def direct_call(
    device: Device,
    g: Geometry,
    options: Options,
    operands: Operands,
    others: Sequence[DeviceArray],
) -> Call:
    """A call whose groups are compiled in, and that reads ``others`` in addition."""
    dtype = operands.input.dtype
    partial_elements = splits(g) * grad_elements(g)
    bits = index_bits_of(g, [*operands.present().values(), *others], partial_elements)
    variant = Variant(dtype, bits, vector_of(g, dtype), *group_channels(g), axes=g.axes)
    return Call(device, g, operands, variant, options.boundary_grad == "zero")


def launch(call: Call, name: str, items: int, pointers: Sequence[int], struct: Struct) -> None:
    """Launch a kernel whose shared memory holds sample records, and after them its results."""
    group_in, group_out = group_channels(call.g)
    outputs = _slice_channels(call) // group_in * group_out * block_lanes(call)
    padded = block_positions(call) + 1  # avoids bank conflicts
    shared = max(THREADS * call.record_bytes, outputs * padded * call.itemsize)
    call.launch(name, items, pointers, struct, shared_bytes=shared)


def sample_pointers(call: Call, images: DeviceArray) -> tuple[int, ...]:
    """Pointers that every kernel that samples begins with."""
    operands = call.operands
    return images.pointer, operands.offset.pointer, pointer_of(operands.mask)


def packed_weight(call: Call) -> ChannelsLast:
    """The weight as (C/groups, taps, O), by the kernel that copies images channels last."""
    weight = call.operands.weight
    n, c, *axes = weight.strides
    out_channels, group_in, *kernel = weight.shape
    shape = (group_in, out_channels, *kernel)
    as_images = DeviceArray(weight.pointer, shape, (c, n, *axes), weight.dtype)
    return ChannelsLast(call, as_images, group_in * prod(kernel), dense=True)


def operand_costs(call: Call) -> Costs:
    """Workspace for copies of the input and the weight."""
    g, size = call.g, call.itemsize
    copied = not needs_no_copy(call, call.operands.input, dense=False)
    return Costs(
        call=prod(g.weight_shape) * size,
        image=g.channels * g.in_pixels * size if copied else 0,
    )


# ---- sizes ---------------------------------------------------------------------------------------


def group_channels(g: Geometry) -> tuple[int, int]:
    """Channels of a group, of the input and of the output."""
    return g.channels // g.groups, g.out_channels // g.groups


def vector_of(g: Geometry, dtype: str) -> int:
    """Channels that a thread loads at a time: 16 bytes of them where these are whole groups."""
    wide = widest(dtype)
    fits = wide % group_channels(g)[0] == 0 and g.channels // g.offset_groups % wide == 0
    return wide if fits else 1


def _slice_channels(call: Call) -> int:
    """Input channels of a channel slice."""
    return max(call.variant.vector, call.variant.group_in)


def lanes_of(call: Call, most: int) -> int:
    """The largest power of 2, up to ``most``, that divides the slices of an offset group."""
    slices = call.g.channels // call.g.offset_groups // _slice_channels(call)
    return min(1 << (most.bit_length() - 1), slices & -slices)


def block_lanes(call: Call) -> int:
    """Lanes of a position in a block: as many as read a cache line together, if they divide."""
    slice_bytes = _slice_channels(call) * call.itemsize
    return lanes_of(call, min(32, max(1, LINE_BYTES // slice_bytes)))


def block_positions(call: Call) -> int:
    """Positions that a block takes at a time."""
    return THREADS // block_lanes(call)


def slice_blocks(call: Call) -> int:
    """Blocks that take all channel slices of the same positions."""
    return call.g.channels // (_slice_channels(call) * block_lanes(call))


def splits(g: Geometry) -> int:
    """Ranges of positions over which the gradient of the weight is summed separately."""
    return min(MAX_SPLITS, -(-g.batch * g.out_pixels // SPLIT_POSITIONS))


def grad_elements(g: Geometry) -> int:
    """Elements of the gradient of weight and bias."""
    return (g.taps * (g.channels // g.groups) + 1) * g.out_channels
