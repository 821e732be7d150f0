"""The algorithms of the engine, one file each, and the rule that chooses among them.

==========  ===================================================================================
direct      groups of a few channels: one kernel, neither columns nor a matrix product
fused       forward on tensor cores: one kernel samples and multiplies, without columns
im2col      everything else: columns in memory, products by cuBLAS
grad_input  the gradient of the input in the backward of im2col, by atomics or by a sorted gather
==========  ===================================================================================

An algorithm forced by ``overrides`` takes precedence, unless it cannot compute the call.
"""

from __future__ import annotations

from collections.abc import Sequence

from cudeform.arrays import DeviceArray
from cudeform.geometry import Geometry
from cudeform.gpu import overrides
from cudeform.gpu.algorithms import direct, fused
from cudeform.gpu.device_api.protocol import Hardware
from cudeform.options import Options


def forward_algorithm(
    g: Geometry, dtype: str, hardware: Hardware, arrays: Sequence[DeviceArray] = ()
) -> str:
    """Choose one of ``overrides.ALGORITHMS``: the forced one if it applies, else the fastest.

    Args:
        g: sizes of the convolution.
        dtype: dtype of the arrays.
        hardware: the GPU that runs the call.
        arrays: the arrays of the call, with any strides.
    """
    supported = {
        "direct": direct.supports(g),
        "fused": fused.supports(g, dtype, hardware, arrays),
        "im2col": True,
    }
    forced = overrides.forced().algorithm
    if forced is not None and supported[forced]:
        return forced
    if supported["direct"]:
        return "direct"
    profitable = supported["fused"] and fused.is_profitable(g, dtype, hardware)
    return "fused" if profitable else "im2col"


def backward_algorithm(g: Geometry, options: Options) -> str:
    """Choose direct, which supports few sizes and accumulates by atomics, or im2col."""
    if overrides.forced().algorithm == "im2col" or uses_gather(options):
        return "im2col"
    return "direct" if direct.supports(g) else "im2col"


def uses_gather(options: Options) -> bool:
    """Whether to sum the gradient of the input by the sorted gather; always if deterministic."""
    return options.deterministic or overrides.forced().scatter == "gather"
