"""The three matrix products of a chunk, as strided batches in cuBLAS's column-major convention.

The arrays are row-major, so cuBLAS sees them transposed:

    columns      (groups, positions, ld_columns)
    weight       (groups, O/groups, ld_columns)
    grad_output  (positions, O)
    output       (N, O, pixels)
"""

from __future__ import annotations

from cudeform.arrays import DeviceArray
from cudeform.gpu.call import Call
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.commands import Gemm, Matrix
from cudeform.gpu.device_api.protocol import Memory


def output(
    call: Call,
    chunk: Chunk,
    columns: Memory,
    weight: Memory,
    result: DeviceArray,
    allow_tf32: bool,
    *,
    accumulate: bool = False,
) -> None:
    """Write, or add, columns times weight into the contiguous output.

    A batch covers the images of the chunk or the groups, whichever are more; a loop covers the
    other.
    """
    g, size, ld = call.g, call.itemsize, call.ld_columns
    pixels = call.pixels(chunk)
    in_image, positions = pixels.stop - pixels.start, call.positions(chunk)
    group_out = g.out_channels // g.groups
    first = chunk.images.start * g.out_channels * g.out_pixels + pixels.start
    # Strides of columns, weight and output from image to image and from group to group.
    by_image = (in_image * ld, 0, g.out_channels * g.out_pixels)
    by_group = (positions * ld, group_out * ld, group_out * g.out_pixels)
    batch, in_batch, loop, in_loop = chunk.count, by_image, g.groups, by_group
    if g.groups > chunk.count:
        batch, in_batch, loop, in_loop = g.groups, by_group, chunk.count, by_image
    gemm = Gemm(
        m=in_image,
        n=group_out,
        k=ld,
        a=Matrix(ld, in_batch[0], transposed=True),
        b=Matrix(ld, in_batch[1]),
        c=Matrix(g.out_pixels, in_batch[2]),
        batch=batch,
        dtype=call.variant.dtype,
        output_dtype=call.variant.dtype,
        beta=1.0 if accumulate else 0.0,
        allow_tf32=allow_tf32,
    )
    for i in range(loop):
        pointers = (
            columns.pointer + i * in_loop[0] * size,
            weight.pointer + i * in_loop[1] * size,
            result.pointer + (first + i * in_loop[2]) * size,
        )
        call.device.queue(gemm, pointers)


def grad_columns(
    call: Call,
    chunk: Chunk,
    grad_output: DeviceArray,
    weight: Memory,
    columns: Memory,
    allow_tf32: bool,
) -> None:
    """Write grad_output times weight into the columns, but not into the padding of their rows."""
    g, ld = call.g, call.ld_columns
    positions = call.positions(chunk)
    group_out = g.out_channels // g.groups
    gemm = Gemm(
        m=g.taps * (g.channels // g.groups),
        n=positions,
        k=group_out,
        a=Matrix(ld, group_out * ld),
        b=Matrix(g.out_channels, group_out),
        c=Matrix(ld, positions * ld),
        batch=g.groups,
        dtype=call.variant.dtype,
        output_dtype=call.variant.dtype,
        allow_tf32=allow_tf32,
    )
    call.device.queue(gemm, (weight.pointer, grad_output.pointer, columns.pointer))


def grad_weight(
    call: Call,
    chunk: Chunk,
    columns: Memory,
    grad_output: DeviceArray,
    packed: Memory,
    *,
    accumulate: bool,
    allow_tf32: bool,
) -> None:
    """Write, or add, columns times grad_output into the gradient of the packed weight."""
    g, ld = call.g, call.ld_columns
    positions = call.positions(chunk)
    group_out = g.out_channels // g.groups
    gemm = Gemm(
        m=ld,
        n=group_out,
        k=positions,
        a=Matrix(ld, positions * ld),
        b=Matrix(g.out_channels, group_out, transposed=True),
        c=Matrix(ld, group_out * ld),
        batch=g.groups,
        dtype=call.variant.dtype,
        output_dtype="float64" if call.variant.dtype == "float64" else "float32",
        beta=1.0 if accumulate else 0.0,
        allow_tf32=allow_tf32,
    )
    call.device.queue(gemm, (columns.pointer, grad_output.pointer, packed.pointer))
