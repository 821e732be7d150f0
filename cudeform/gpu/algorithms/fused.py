"""Fused forward on a device: one kernel samples and multiplies on tensor cores, without columns.

Nothing but launches is queued, so a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cudeform.arrays import Operands
from cudeform.geometry import Geometry
from cudeform.gpu.algorithms.fused_tiling import Tiling, run_of, tile_for
from cudeform.gpu.call import Call, index_bits_of, pointer_of, strides_of
from cudeform.gpu.chunks import Chunk, Costs, chunks
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, widest
from cudeform.gpu.device_api.protocol import Device, DeviceArray, Memory
from cudeform.gpu.layouts import ChannelsLast, readable
from cudeform.options import Options

# Tensor cores and asynchronous copies as the kernel wants them.
LEAST_CAPABILITY = 80
DTYPES = ("float16", "bfloat16", "float32")

# Below, most of a tile's columns would be padding; above, too many blocks would sample the same.
LEAST_GROUP_OUT = 32
MOST_STRIPS = 4

PARTIAL_BYTES = 4


def supports(g: Geometry, dtype: str, device: Device, arrays: Sequence[DeviceArray] = ()) -> bool:
    """Whether the fused kernel can compute a convolution.

    It takes 16 bytes of channels at a time, all of one group and one offset group, and has no
    registers to spare for indices of 64 bits.
    """
    able = dtype in DTYPES and device.compute_capability >= LEAST_CAPABILITY
    if not able or g.channels == 0 or run_of(g) % widest(dtype):
        return False
    return index_bits_of(g, arrays, _tiling(g, dtype, 1, device).packed) == 32


def is_profitable(g: Geometry, dtype: str, device: Device) -> bool:
    """Whether it is expected to be faster than columns and a product.

    It is where a group has enough output channels for a tile, and not so many that several tiles
    sample the same positions again and again.
    """
    group_out = g.out_channels // g.groups
    return group_out >= LEAST_GROUP_OUT and _tiling(g, dtype, 1, device).strips <= MOST_STRIPS


def forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    """Queue the deformable convolution of ``operands`` into ``output``, of any strides."""
    dtype = operands.input.dtype
    products = 3 if dtype == "float32" and not options.allow_tf32 else 1
    tiling = _tiling(g, dtype, products, device)
    parts = -(-tiling.stages // tiling.part_stages(device))
    variant = Variant(dtype, 32, widest(dtype), tile=tiling.tile)
    call = Call(device, g, operands, variant, zero_boundary_grad=False)
    # No sum is cut by a chunk, so there is no need to cut the same way every time.
    pieces = chunks(g, device, replace(options, deterministic=False), _costs(call, tiling, parts))
    most = max(chunk.count for chunk in pieces)
    partial = None
    if parts > 1:
        partial = call.allocate(parts * most * g.out_channels * g.out_pixels, PARTIAL_BYTES)
    images = ChannelsLast(call, operands.input, most * g.in_pixels, dense=False)
    fused = _Fused(call, tiling, parts, _packed(call, tiling), output, partial)
    for chunk in pieces:
        fused.run(chunk, images.part(chunk.images, slice(0, g.in_h)))


def _tiling(g: Geometry, dtype: str, products: int, device: Device) -> Tiling:
    return Tiling(g, tile_for(g, dtype, products, device.multiprocessors), dtype)


def _costs(call: Call, tiling: Tiling, parts: int) -> Costs:
    g, size = call.g, ITEMSIZE[call.variant.dtype]
    as_it_is = readable(call, call.operands.input, dense=False)
    partial = parts * g.out_channels * g.out_pixels * PARTIAL_BYTES if parts > 1 else 0
    return Costs(
        call=tiling.packed * size,
        image=(0 if as_it_is else g.channels * g.in_pixels * size) + partial,
        position=0,
    )


def _packed(call: Call, tiling: Tiling) -> Memory:
    """The weight in the order of the kernel's stages."""
    packed = call.allocate(tiling.packed)
    fields = {"weight": strides_of(call.operands.weight)} | _stage_fields(tiling)
    pointers = (call.operands.weight.pointer, packed.pointer)
    call.launch("pack_weight_fused", tiling.packed_units, pointers, fields)
    return packed


def _stage_fields(tiling: Tiling) -> dict[str, int]:
    return {
        "k_taps": tiling.route_taps,
        "taps_per_batch": tiling.plan_taps,
        "channel_blocks": tiling.chunks,
        "stages": tiling.stages,
    }


@dataclass(frozen=True)
class _Fused:
    call: Call
    tiling: Tiling
    parts: int
    weight: Memory
    output: DeviceArray
    partial: Memory | None  # sums of the parts of a chunk

    def run(self, chunk: Chunk, images: DeviceArray) -> None:
        call, g, tiling, operands = self.call, self.call.g, self.tiling, self.call.operands
        fields = call.chunk_fields(chunk, images) | _stage_fields(tiling)
        fields |= {
            "output": self.output.strides,
            "bias_stride": 0 if operands.bias is None else operands.bias.strides[0],
            "splits": self.parts,
            "split_stages": tiling.part_stages(call.device),
            "split_size": call.positions(chunk) * g.out_channels,
            "tile_w": tiling.tile_w(),
        }
        sources = (images.pointer, operands.offset.pointer, pointer_of(operands.mask))
        bias, output = pointer_of(operands.bias), self.output.pointer
        partial = 0 if self.partial is None else self.partial.pointer
        call.launch_blocks(
            "deform_fused",
            tiling.tiles(chunk.count, chunk.height) * self.parts * g.groups * tiling.strips,
            tiling.tile.threads,
            (*sources, self.weight.pointer, bias, output, partial),
            fields,
            tiling.shared_bytes,
        )
        if partial:
            call.launch("reduce_split_k", fields["split_size"], (partial, bias, output), fields)
