"""Forward mode and double backward of sums.

``double_backward`` computes the gradients of ``sum(cotangents * backward(...))``. This sum equals
``sum(grad_output * T)``, where T is the tangent of the output along the cotangents. So T is the
gradient with respect to grad_output.
"""

from __future__ import annotations

from math import prod

from cudeform.arrays import DeviceArray, DoubleGradients, Operands, Tangents
from cudeform.gpu.algorithms.sums import SumCall, has_samples
from cudeform.gpu.algorithms.sums_backward import grad_strides
from cudeform.gpu.algorithms.sums_grad_input import SumGradInput, tangent_strides
from cudeform.gpu.call import pointer_of, zero_arrays
from cudeform.gpu.device_api import sums_params
from cudeform.gpu.device_api.protocol import Device
from cudeform.gpu.device_api.sums_sizes import channel_strides
from cudeform.options import Options
from cudeform.sums_geometry import SumGeometry


def jvp(
    device: Device,
    operands: Operands,
    g: SumGeometry,
    options: Options,
    tangents: Tangents,
    result: DeviceArray,
) -> None:
    """Queue the tangent of the output into ``result``, contiguous.

    A tangent that is None means zero.
    """
    if not prod(result.shape):
        return
    if not has_samples(g):
        zero_arrays(device, [result])
        return
    call = SumCall.of(
        device, g, options, operands, [result, tangents.input], [tangents.offset, tangents.mask]
    )
    struct = sums_params.SumJvp(
        sampling=call.sampling(call.all_positions), tangents=tangent_strides(call, tangents)
    )
    pointers = (*_pointers(operands, tangents), result.pointer)
    call.launch("deform_sum_jvp", call.vector_threads, pointers, struct)


def double_backward(
    device: Device,
    operands: Operands,
    g: SumGeometry,
    options: Options,
    grad_output: DeviceArray,
    cotangents: Tangents,
    results: DoubleGradients,
) -> None:
    """Queue the gradients of ``sum(cotangents * backward(...))`` into ``results``.

    The results for grad_output and input are contiguous; those for offset and mask may have any
    strides. A cotangent that is None means zero. A result that is None is not computed.
    """
    if results.grad_output is not None:
        jvp(device, operands, g, options, cotangents, results.grad_output)
    if not has_samples(g):
        zero_arrays(device, [] if results.input is None else [results.input])
        return
    if results.input is results.offset is results.mask is None:
        return
    call = SumCall.of(
        device,
        g,
        options,
        operands,
        [grad_output, cotangents.input, results.input],
        [cotangents.offset, cotangents.mask, results.offset, results.mask],
    )
    chunks, grad_input = SumGradInput.of(call, options, results.input)
    for chunk in chunks:
        images = 0
        if grad_input is not None:
            images = grad_input.before_kernel(chunk, grad_output, cotangents)
        pointers = (
            *_pointers(operands, cotangents),
            grad_output.pointer,
            images,
            pointer_of(results.offset),
            pointer_of(results.mask),
        )
        struct = sums_params.SumDoubleBackward(
            sampling=call.sampling(chunk.positions),
            tangents=tangent_strides(call, cotangents),
            grad_output=channel_strides(grad_output),
            strides=grad_strides(results.offset, results.mask),
            first_image=chunk.images.start,
        )
        if any(pointers[-3:]):
            threads = call.item_threads(chunk.positions)
            call.launch("deform_sum_double_backward", threads, pointers, struct)
        if grad_input is not None:
            grad_input.after_kernel(chunk)


def _pointers(operands: Operands, tangents: Tangents) -> tuple[int, ...]:
    """The first pointers of every kernel that reads the tangents."""
    return (
        operands.input.pointer,
        pointer_of(tangents.input),
        operands.offset.pointer,
        operands.mask.pointer,
        pointer_of(tangents.offset),
        pointer_of(tangents.mask),
    )
