"""The three matrix products of a chunk, as cuBLAS wants them: column-major, batched by strides.

In memory, and so transposed for cuBLAS:

    columns      (groups, positions, leading)
    weight       (groups, O/groups, leading)
    grad_output  (positions, O)
    output       (N, O, OH*OW)
"""

from __future__ import annotations

from cudeform.gpu.call import Call
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.protocol import DeviceArray, Gemm, Matrix


def output(
    call: Call,
    chunk: Chunk,
    columns: int,
    weight: int,
    result: DeviceArray,
    allow_tf32: bool,
    *,
    add: bool = False,
) -> None:
    """Columns times the weight, straight into the contiguous output; added where ``add``."""
    g, size, leading = call.g, call.itemsize, call.leading
    pixels = chunk.height * g.out_w
    positions = call.positions(chunk)
    group_out = g.out_channels // g.groups
    first = chunk.images.start * g.out_channels * g.out_pixels + chunk.rows.start * g.out_w
    # Strides of columns, weight and output for one step in each of the two directions.
    by_image = (pixels * leading, 0, g.out_channels * g.out_pixels)
    by_group = (positions * leading, group_out * leading, group_out * g.out_pixels)
    steps, batch, strides, loop = by_group, chunk.count, by_image, g.groups
    if g.groups > chunk.count:
        steps, batch, strides, loop = by_image, g.groups, by_group, chunk.count
    for i in range(loop):
        call.device.gemm(
            Gemm(
                m=pixels,
                n=group_out,
                k=leading,
                a=Matrix(columns + i * steps[0] * size, leading, strides[0], transposed=True),
                b=Matrix(weight + i * steps[1] * size, leading, strides[1]),
                c=Matrix(result.pointer + (first + i * steps[2]) * size, g.out_pixels, strides[2]),
                batch=batch,
                dtype=call.variant.dtype,
                output_dtype=call.variant.dtype,
                beta=1.0 if add else 0.0,
                allow_tf32=allow_tf32,
            )
        )


def grad_columns(
    call: Call, chunk: Chunk, grad_output: int, weight: int, columns: int, allow_tf32: bool
) -> None:
    """Gradient of the output times the weight; the ends of the columns' rows stay as they are."""
    g, leading = call.g, call.leading
    positions = call.positions(chunk)
    group_out = g.out_channels // g.groups
    call.device.gemm(
        Gemm(
            m=g.taps * (g.channels // g.groups),
            n=positions,
            k=group_out,
            a=Matrix(weight, leading, group_out * leading),
            b=Matrix(grad_output, g.out_channels, group_out),
            c=Matrix(columns, leading, positions * leading),
            batch=g.groups,
            dtype=call.variant.dtype,
            output_dtype=call.variant.dtype,
            allow_tf32=allow_tf32,
        )
    )


def grad_weight(
    call: Call,
    chunk: Chunk,
    columns: int,
    grad_output: int,
    packed: int,
    *,
    add: bool,
    allow_tf32: bool,
) -> None:
    """Columns times the gradient of the output, added to earlier chunks where ``add``."""
    g, leading = call.g, call.leading
    positions = call.positions(chunk)
    group_out = g.out_channels // g.groups
    call.device.gemm(
        Gemm(
            m=leading,
            n=group_out,
            k=positions,
            a=Matrix(columns, leading, positions * leading),
            b=Matrix(grad_output, g.out_channels, group_out, transposed=True),
            c=Matrix(packed, leading, group_out * leading),
            batch=g.groups,
            dtype=call.variant.dtype,
            output_dtype="float64" if call.variant.dtype == "float64" else "float32",
            beta=1.0 if add else 0.0,
            allow_tf32=allow_tf32,
        )
    )
