"""Forward on a device: choose the algorithm and let it queue its commands.

The device is a recorder (``replay``): nothing runs before the whole call has been recorded.
"""

from __future__ import annotations

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.algorithms import direct, forward_algorithm, fused, im2col
from cudeform.gpu.device_api.protocol import Device
from cudeform.options import Options

ALGORITHMS = {"direct": direct.forward, "fused": fused.forward, "im2col": im2col.forward}


def forward(
    device: Device, operands: Operands, g: Geometry, options: Options, output: DeviceArray
) -> None:
    """Queue the deformable convolution of ``operands`` into ``output``, contiguous."""
    if 0 in g.output_shape:
        return
    arrays = [*operands.present().values(), output]
    algorithm = forward_algorithm(g, operands.input.dtype, device, arrays)
    ALGORITHMS[algorithm](device, operands, g, options, output)
