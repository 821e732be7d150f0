"""Backward of sums: one kernel reads each corner once, and computes all gradients."""

from __future__ import annotations

from cudeform.arrays import DeviceArray, Gradients, Operands
from cudeform.gpu.algorithms.sums import SumCall, has_samples
from cudeform.gpu.algorithms.sums_grad_input import SumGradInput
from cudeform.gpu.call import pointer_of, zero_arrays
from cudeform.gpu.device_api import sums_params
from cudeform.gpu.device_api.protocol import Device
from cudeform.gpu.device_api.sums_sizes import SumGradStrides, channel_strides, position_strides
from cudeform.options import Options
from cudeform.sums_geometry import SumGeometry


def backward(
    device: Device,
    operands: Operands,
    g: SumGeometry,
    options: Options,
    grad_output: DeviceArray,
    grads: Gradients,
) -> None:
    """Queue the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``.

    The gradient of the input is contiguous; those of offset and mask may have any strides. A
    gradient that is None is not computed.
    """
    if not has_samples(g):
        zero_arrays(device, [] if grads.input is None else [grads.input])
        return
    if grads.input is grads.offset is grads.mask is None:
        return
    call = SumCall.of(
        device, g, options, operands, [grad_output, grads.input], [grads.offset, grads.mask]
    )
    chunks, grad_input = SumGradInput.of(call, options, grads.input)
    for chunk in chunks:
        images = 0
        if grad_input is not None:
            images = grad_input.before_kernel(chunk, grad_output)
        pointers = (
            operands.input.pointer,
            operands.offset.pointer,
            operands.mask.pointer,
            grad_output.pointer,
            images,
            pointer_of(grads.offset),
            pointer_of(grads.mask),
        )
        struct = sums_params.SumBackward(
            sampling=call.sampling(chunk.positions),
            grad_output=channel_strides(grad_output),
            strides=grad_strides(grads.offset, grads.mask),
            first_image=chunk.images.start,
        )
        if any(pointers[-3:]):
            call.launch("deform_sum_backward", call.item_threads(chunk.positions), pointers, struct)
        if grad_input is not None:
            grad_input.after_kernel(chunk)


def grad_strides(offset: DeviceArray | None, mask: DeviceArray | None) -> SumGradStrides:
    """Strides of the gradients of offset and mask."""
    return SumGradStrides(offset=position_strides(offset), mask=position_strides(mask))
