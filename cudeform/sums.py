"""The engine of operators that sum samples without a filter, as adapters call it.

The functions are those of ``cudeform.engine``, for arrays in the shapes that users pass. They make
views in the canonical form of ``cudeform.sums_geometry`` and call ``cpu.sums_*`` or ``gpu.sums_*``.
DCNv4 has offsets and masks in one array, of which both engines see two views; so has its gradient,
whose rows end with zeros.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.options import Options
from cudeform.sums_shapes import SumShapes
from cudeform.sums_views import canonical, output_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from cudeform.gpu.device_api.protocol import Executor


def workspace_bytes(
    function: Callable[..., None],
    operands: Operands,
    geometry: SumShapes,
    options: Options,
    *arrays: Any,
    device: Executor,
) -> int:
    """As ``engine.workspace_bytes``, for a function of this module."""
    from cudeform import gpu

    recorded, g = _ON_DEVICE[function.__name__], cast(Any, geometry)
    return gpu.workspace_bytes(recorded, device, operands, g, options, *arrays)


def forward(
    operands: Operands,
    geometry: SumShapes,
    options: Options,
    output: Any,
    device: Executor | None = None,
) -> None:
    """Write the sums of samples into ``output``."""
    _run("forward", device, operands, geometry, options, output)


def backward(
    operands: Operands,
    geometry: SumShapes,
    options: Options,
    grad_output: Any,
    grads: Gradients,
    device: Executor | None = None,
) -> None:
    """Write gradients into the arrays of ``grads``; those that are None are not computed."""
    _run("backward", device, operands, geometry, options, grad_output, grads)


def jvp(
    operands: Operands,
    geometry: SumShapes,
    options: Options,
    tangents: Tangents,
    output_tangent: Any,
    device: Executor | None = None,
) -> None:
    """Write the tangent of the output, given tangents of the operands; None stands for zero."""
    _run("jvp", device, operands, geometry, options, tangents, output_tangent)


def double_backward(
    operands: Operands,
    geometry: SumShapes,
    options: Options,
    grad_output: Any,
    cotangents: Tangents,
    results: DoubleGradients,
    device: Executor | None = None,
) -> None:
    """Write the gradients of ``sum(cotangents * backward(...))`` into ``results``.

    A cotangent that is None stands for zero; a result that is None is not computed.
    """
    arrays = grad_output, cotangents, results
    _run("double_backward", device, operands, geometry, options, *arrays)


OPERATIONS = ("forward", "backward", "jvp", "double_backward")


def _run(operation: str, device: Executor | None, *call: Any) -> None:
    if device is None:
        from cudeform import cpu

        _call(getattr(cpu, f"sums_{operation}"), cpu.Arithmetic(), *call)
        return
    from cudeform import gpu

    gpu.run(_ON_DEVICE[operation], device, *call)


def _on_device(operation: str) -> Callable[..., None]:
    """A call as ``gpu.run`` records it."""

    def recorded(device: Any, *call: Any) -> None:
        from cudeform import gpu

        function = partial(getattr(gpu, f"sums_{operation}"), device)
        _call(function, gpu.Arithmetic(device), *call)

    return recorded


_ON_DEVICE = {operation: _on_device(operation) for operation in OPERATIONS}


def _call(
    function: Callable[..., None],
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
    function(canonical(operands, g, packed), g, options, *views)
