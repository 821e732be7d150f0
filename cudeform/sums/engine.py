"""The engine of operators that sum samples without a filter, as adapters call it.

Its functions take arrays in the shapes that users pass. They make views in the canonical form of
``cudeform.sums_geometry`` and call ``cpu.sums_*`` or ``gpu.sums_*``.
DCNv4 has offsets and masks in one array, of which both engines see two views; so has its gradient,
whose rows end with zeros.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.engine import ComposedEngine
from cudeform.options import Options
from cudeform.sums.shapes import SumShapes
from cudeform.sums.views import canonical, output_view


def _call(
    operation: str,
    engine: Any,
    arithmetic: Any,
    operands: Operands,
    geometry: SumShapes,
    options: Options,
    *arrays: Any,
) -> None:
    """Call a function of the CPU or of a device with views of the arrays."""
    g, packed = geometry.sizes, geometry.mask_shape is None
    if packed and isinstance(arrays[-1], (Gradients, DoubleGradients)):
        gradient = arrays[-1].offset
        if gradient is not None and gradient.shape[-1] > 3 * g.groups * g.taps:
            arithmetic.fill_zero(gradient)
    views = [
        canonical(each, g, packed)
        if isinstance(each, (Gradients, Tangents, DoubleGradients))
        else output_view(each, g)
        for each in arrays
    ]
    function = getattr(engine, f"sums_{operation}")
    function(canonical(operands, g, packed), g, options, *views)


ENGINE = ComposedEngine(
    forward=partial(_call, "forward"),
    backward=partial(_call, "backward"),
    jvp=partial(_call, "jvp"),
    double_backward=partial(_call, "double_backward"),
)
