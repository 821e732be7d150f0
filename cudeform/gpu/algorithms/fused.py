"""The fused forward: one kernel samples and multiplies on tensor cores, without columns.

It queues only kernel launches and no cuBLAS calls, so a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.algorithms.fused_tiling import Tiling, run_of, tiling_for
from cudeform.gpu.call import Call, pointer_of
from cudeform.gpu.chunks import Chunk, cut_into_chunks
from cudeform.gpu.costs import Costs
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.conv_sizes import KLayout
from cudeform.gpu.device_api.kernel_source import Variant, widest
from cudeform.gpu.device_api.protocol import Device, Hardware, Memory
from cudeform.gpu.layouts import input_images, needs_no_copy
from cudeform.gpu.variants import index_bits_of
from cudeform.options import Options

# The oldest compute capability with asynchronous copies and tensor core instructions for the dtype.
MIN_CAPABILITY = 80
DTYPES = ("float16", "bfloat16", "float32")

# With fewer output channels per group, most of a tile would be padding. With more strips, too many
# blocks would sample the same positions.
MIN_GROUP_OUT = 32
MAX_STRIPS = 4

PARTIAL_BYTES = 4  # bytes of an element of a partial output


def supports(
    g: Geometry, dtype: str, hardware: Hardware, arrays: Sequence[DeviceArray] = ()
) -> bool:
    """Whether the fused kernel can compute a convolution.

    The kernel supports two spatial axes. It loads 16 bytes of channels at a time, which must belong
    to one group and one offset group. It supports only 32-bit indices, for lack of registers.
    """
    if g.axes != 2 or dtype not in DTYPES or hardware.compute_capability < MIN_CAPABILITY:
        return False
    if g.channels == 0 or run_of(g) % widest(dtype):
        return False
    tiling = tiling_for(g, dtype, 1, hardware.multiprocessors)
    return index_bits_of(g, arrays, tiling.packed_elements) == 32


def is_profitable(g: Geometry, dtype: str, hardware: Hardware) -> bool:
    """Whether the fused kernel is expected to be faster than columns and a matrix product.

    It is if a group has enough output channels to fill a tile, but not so many that many tiles
    sample the same positions.
    """
    if g.out_channels // g.groups < MIN_GROUP_OUT:
        return False
    return tiling_for(g, dtype, 1, hardware.multiprocessors).strips <= MAX_STRIPS


def forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    """Queue the deformable convolution of ``operands`` into ``output``, of any strides."""
    dtype = operands.input.dtype
    products = 3 if dtype == "float32" and not options.allow_tf32 else 1
    tiling = tiling_for(g, dtype, products, device.multiprocessors)
    splits = -(-tiling.stages // tiling.split_stages(device))
    variant = Variant(dtype, 32, widest(dtype), tile=tiling.tile)
    call = Call(device, g, operands, variant, zero_boundary_grad=False)
    # No sum crosses chunks, so a deterministic call may have any chunks.
    options = replace(options, deterministic=False)
    chunks = cut_into_chunks(g, device, options, _costs(call, tiling, splits))
    partial = None
    if splits > 1:
        count = max(chunk.count for chunk in chunks)
        partial = call.allocate(splits * count * g.out_channels * g.out_pixels, PARTIAL_BYTES)
    images = input_images(call, chunks)
    fused = _Fused(call, tiling, splits, _pack_weight(call, tiling), output, partial)
    for chunk in chunks:
        fused.run(chunk, images.part(chunk.images))


def _costs(call: Call, tiling: Tiling, splits: int) -> Costs:
    g, size = call.g, call.itemsize
    copied = not needs_no_copy(call, call.operands.input, dense=False)
    images = g.channels * g.in_pixels * size if copied else 0
    partial = splits * g.out_channels * g.out_pixels * PARTIAL_BYTES if splits > 1 else 0
    return Costs(call=tiling.packed_elements * size, image=images + partial)


def _pack_weight(call: Call, tiling: Tiling) -> Memory:
    """Pack the weight in the order of the kernel's stages."""
    packed = call.allocate(tiling.packed_elements)
    struct = conv_params.PackWeightFused(
        problem=call.problem,
        weight=call.operands.weight.strides,
        layout=_k_layout(tiling),
        stages=tiling.stages,
    )
    pointers = (call.operands.weight.pointer, packed.pointer)
    call.launch("pack_weight_fused", tiling.packed_vecs, pointers, struct)
    return packed


def _k_layout(tiling: Tiling) -> KLayout:
    return KLayout(tiling.k_taps, tiling.taps_per_batch, tiling.channel_blocks)


@dataclass(frozen=True)
class _Fused:
    call: Call
    tiling: Tiling
    splits: int
    weight: Memory  # packed
    output: DeviceArray
    partial: Memory | None  # partial outputs of the splits of a chunk

    def run(self, chunk: Chunk, images: DeviceArray) -> None:
        call, g, tiling, operands = self.call, self.call.g, self.tiling, self.call.operands
        split_size = call.positions(chunk) * g.out_channels
        bias_stride = 0 if operands.bias is None else operands.bias.strides[0]
        struct = conv_params.Fused(
            sampling=call.sampling(chunk, images),
            layout=_k_layout(tiling),
            stages=tiling.stages,
            splits=self.splits,
            split_stages=tiling.split_stages(call.device),
            tile_w=tiling.tile_w,
            output=self.output.strides,
            bias_stride=bias_stride,
            split_size=split_size,
        )
        sources = (images.pointer, operands.offset.pointer, pointer_of(operands.mask))
        bias, output = pointer_of(operands.bias), self.output.pointer
        partial = pointer_of(self.partial)
        call.launch_blocks(
            "deform_fused",
            tiling.tiles(chunk.count, chunk.height) * self.splits * g.groups * tiling.strips,
            tiling.tile.threads,
            (*sources, self.weight.pointer, bias, output, partial),
            struct,
            tiling.shared_bytes,
        )
        if self.partial is not None:
            reduce = conv_params.ReduceSplitK(
                chunk=call.chunk(chunk),
                output=self.output.strides,
                bias_stride=bias_stride,
                split_size=split_size,
                splits=self.splits,
                out_channels=g.out_channels,
                out_w=g.out_cols,
            )
            call.launch("reduce_split_k", split_size, (partial, bias, output), reduce)
