"""Backward on a device: choose the algorithm and let it queue its commands."""

from __future__ import annotations

from cudeform.arrays import DeviceArray, Gradients, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.algorithms import backward_algorithm, direct_backward, im2col_backward
from cudeform.gpu.call import zero_arrays
from cudeform.gpu.device_api.protocol import Device
from cudeform.options import Options

ALGORITHMS = {"direct": direct_backward.backward, "im2col": im2col_backward.backward}


def backward(
    device: Device,
    operands: Operands,
    g: Geometry,
    options: Options,
    grad_output: DeviceArray,
    grads: Gradients,
) -> None:
    """Queue the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``.

    The arrays are contiguous. A gradient that is None is not computed.
    """
    wanted = [grad for grad in grads if grad is not None]
    if 0 in g.output_shape:
        zero_arrays(device, wanted)
    elif wanted:
        algorithm = backward_algorithm(g, options)
        ALGORITHMS[algorithm](device, operands, g, options, grad_output, grads)
