"""The door for CuPy arrays: their own device, the caller's current stream, CuPy's pool."""

from __future__ import annotations

from typing import Any

from cudeform import engine
from cudeform.geometry import Geometry
from cudeform.operands import DeviceArray, DoubleGradients, Gradients, Operands
from cudeform.options import current


def dtype_name(array: Any) -> str:
    """Name of the dtype, as Geometry knows it."""
    return str(array.dtype.name)


def device_of(array: Any) -> str:
    """Where the array lives."""
    return f"cuda:{array.device.id}"


def forward(operands: Operands, geometry: Geometry) -> Any:
    """Deformable convolution: a new array."""
    with operands.input.device:
        output = _empty(geometry.output_shape, operands.input)
        engine.forward(
            _described(operands), geometry, current(), _describe(output), _device(operands)
        )
    return output


def backward(
    operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
) -> Gradients:
    """Gradients: new arrays."""
    with operands.input.device:
        grads = Gradients(**_like(operands, needs))
        engine.backward(
            _described(operands),
            geometry,
            current(),
            _describe(grad_output),
            Gradients(*map(_describe, grads)),
            _device(operands),
        )
    return grads


def jvp(operands: Operands, geometry: Geometry, tangents: Gradients) -> Any:
    """Tangent of the output: a new array."""
    with operands.input.device:
        result = _empty(geometry.output_shape, operands.input)
        engine.jvp(
            _described(operands),
            geometry,
            current(),
            Gradients(*map(_describe, tangents)),
            _describe(result),
            _device(operands),
        )
    return result


def double_backward(
    operands: Operands,
    geometry: Geometry,
    grad_output: Any,
    cotangents: Gradients,
    needs: frozenset[str],
) -> DoubleGradients:
    """Gradients of the gradients: new arrays."""
    with operands.input.device:
        wanted = "grad_output" in needs
        results = DoubleGradients(
            grad_output=_empty(geometry.output_shape, grad_output) if wanted else None,
            **_like(operands, needs),
        )
        engine.double_backward(
            _described(operands),
            geometry,
            current(),
            _describe(grad_output),
            Gradients(*map(_describe, cotangents)),
            DoubleGradients(*map(_describe, results)),
            _device(operands),
        )
    return results


def _device(operands: Operands) -> Any:
    import cupy

    index = operands.input.device.id
    return engine.gpu_device(index, cupy.cuda.get_current_stream(index).ptr)


def _empty(shape: tuple[int, ...], like: Any) -> Any:
    import cupy

    return cupy.empty(shape, like.dtype)


def _like(operands: Operands, needs: frozenset[str]) -> dict[str, Any]:
    """New arrays for the gradients of the operands that are needed, by name."""
    return {
        name: _empty(array.shape, array)
        for name, array in operands.present().items()
        if name in needs
    }


def _described(operands: Operands) -> Operands:
    return Operands(**{name: _describe(array) for name, array in operands.present().items()})


def _describe(array: Any) -> DeviceArray | None:
    if array is None:
        return None
    if any(number % array.itemsize for number in (array.data.ptr, *array.strides)):
        raise ValueError(
            f"an array of {array.dtype.name} on a GPU must have an address and strides that are "
            f"multiples of {array.itemsize} bytes, got {array.data.ptr} and {array.strides}; copy "
            "it byte by byte"
        )
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return DeviceArray(array.data.ptr, array.shape, strides, array.dtype.name)
