"""The algorithms of the engine, one file each, and the rule that chooses among them.

==========  ===================================================================================
direct      groups of a few channels: one kernel, neither columns nor a matrix product
fused       forward on tensor cores: one kernel samples and multiplies, without columns
im2col      everything else: columns in memory, products by cuBLAS
grad_input  how the backward by im2col sums the gradient of the input
==========  ===================================================================================

What is forced (``overrides``) wins, except where an algorithm cannot compute the call.
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
    """One of ``overrides.ALGORITHMS``: the forced one if it can compute the call, or the fastest.

    Args:
        g: sizes of the convolution.
        dtype: of its arrays.
        hardware: where it runs.
        arrays: its arrays, which may have gaps between their elements.
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
    """Either direct, which fits few sizes and accumulates by atomics, or im2col."""
    if overrides.forced().algorithm == "im2col" or uses_gather(options):
        return "im2col"
    return "direct" if direct.supports(g) else "im2col"


def uses_gather(options: Options) -> bool:
    """Whether the gradient of the input is gathered in order; deterministic calls always do."""
    return options.deterministic or overrides.forced().scatter == "gather"
