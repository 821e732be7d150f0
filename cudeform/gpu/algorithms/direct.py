"""Forward of convolutions in groups of a few channels: one kernel, no columns, no matrix product.

A matrix product with so few rows would leave most of the device idle, and its columns would be the
largest array of the call.

A thread processes a *channel slice*: a few contiguous input channels, which are whole groups and
whole vectors, and the output channels of these groups. Adjacent threads, the *lanes*, process the
slices of one position. A block of ``threads`` threads processes ``threads / lanes`` positions.
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
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.kernel_source import Variant, widest
from cudeform.gpu.device_api.protocol import Device
from cudeform.gpu.device_api.structs import Struct
from cudeform.gpu.layouts import ChannelsLast, input_images, needs_no_copy
from cudeform.gpu.variants import MAX_ELEMENTS_32, index_bits_of
from cudeform.options import Options

# Maximum of input channels times output channels of a group. The registers of a thread and the work
# per sample grow with this product; above the maximum, a matrix product is faster.
MAX_PRODUCT = 4

# Bytes of a pixel that the lanes of a position read with one load each: a cache line.
LINE_BYTES = 128

# The gradient of the weight is first summed over each of several ranges of positions, the splits,
# and then over the splits. Their number depends on sizes alone, so the sum always has the same
# bits.
SPLIT_POSITIONS = 1024
MAX_SPLITS = 256


def supports(g: Geometry) -> bool:
    """Whether the direct kernels can compute a convolution.

    A group must have few channels, ``C/groups * O/groups <= MAX_PRODUCT``: this admits depthwise
    convolutions with 1 to 4 filters per channel, and groups of 2, 3 or 4 channels with few outputs.
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
    # No sum extends over several chunks, so a deterministic call may use chunks of any size.
    options = replace(options, deterministic=False)
    chunks = cut_into_chunks(g, device, options, operand_costs(call))
    images, weight = input_images(call, chunks), packed_weight(call)
    pointers = (weight.whole().pointer, pointer_of(operands.bias), output.pointer)
    bias_stride = 0 if operands.bias is None else operands.bias.strides[0]
    for chunk in chunks:
        part = images.part(chunk.images)
        struct = conv_params.Direct(call.sampling(chunk, part, block_lanes(call)), bias_stride)
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
    """A call with the sizes of its groups compiled into the kernels; it also reads ``others``."""
    dtype = operands.input.dtype
    partial_elements = splits(g) * grad_elements(g)
    bits = index_bits_of(g, [*operands.present().values(), *others], partial_elements)
    variant = Variant(dtype, bits, vector_of(g, dtype), *group_channels(g), axes=g.axes)
    return Call(device, g, operands, variant, options.boundary_grad == "zero")


def launch(call: Call, name: str, items: int, pointers: Sequence[int], struct: Struct) -> None:
    """Launch a kernel whose shared memory holds sample records, followed by its results."""
    group_in, group_out = group_channels(call.g)
    outputs = _slice_channels(call) // group_in * group_out * block_lanes(call)
    padded = block_positions(call) + 1  # avoids bank conflicts
    shared = max(THREADS * call.record_bytes, outputs * padded * call.itemsize)
    call.launch(name, items, pointers, struct, shared_bytes=shared)


def sample_pointers(call: Call, images: DeviceArray) -> tuple[int, ...]:
    """The first pointers of every kernel that samples."""
    operands = call.operands
    return images.pointer, operands.offset.pointer, pointer_of(operands.mask)


def packed_weight(call: Call) -> ChannelsLast:
    """Copy the weight to (C/groups, taps, O), by the channels-last kernel."""
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
    """Channels that a thread loads at a time: 16 bytes if these are whole groups."""
    wide = widest(dtype)
    fits = wide % group_channels(g)[0] == 0 and g.channels // g.offset_groups % wide == 0
    return wide if fits else 1


def _slice_channels(call: Call) -> int:
    """Input channels of a channel slice."""
    return max(call.variant.vector, call.variant.group_in)


def lanes_of(call: Call, most: int) -> int:
    """The largest power of 2, at most ``most``, that divides the slices of an offset group."""
    slices = call.g.channels // call.g.offset_groups // _slice_channels(call)
    return min(1 << (most.bit_length() - 1), slices & -slices)


def block_lanes(call: Call) -> int:
    """Lanes of a position in a block: they read a cache line together, if the sizes allow."""
    slice_bytes = _slice_channels(call) * call.itemsize
    return lanes_of(call, min(32, max(1, LINE_BYTES // slice_bytes)))


def block_positions(call: Call) -> int:
    """Positions that a block processes at a time."""
    return THREADS // block_lanes(call)


def slice_blocks(call: Call) -> int:
    """Number of blocks that process the same positions, each with other channel slices."""
    return call.g.channels // (_slice_channels(call) * block_lanes(call))


def splits(g: Geometry) -> int:
    """Number of splits of the gradient of the weight."""
    return min(MAX_SPLITS, -(-g.batch * g.out_pixels // SPLIT_POSITIONS))


def grad_elements(g: Geometry) -> int:
    """Number of elements of the gradients of weight and bias."""
    return (g.taps * (g.channels // g.groups) + 1) * g.out_channels
