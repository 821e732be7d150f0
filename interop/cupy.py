"""The door for CuPy arrays: their own device, the caller's current stream, CuPy's pool."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from cudeform import engine
from cudeform.arrays import DeviceArray, DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.options import current


def dtype_name(array: Any) -> str:
    """Name of the dtype, as Geometry knows it."""
    return _name(array.dtype)


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


def jvp(operands: Operands, geometry: Geometry, tangents: Tangents) -> Any:
    """Tangent of the output: a new array."""
    with operands.input.device:
        result = _empty(geometry.output_shape, operands.input)
        engine.jvp(
            _described(operands),
            geometry,
            current(),
            Tangents(*map(_describe, tangents)),
            _describe(result),
            _device(operands),
        )
    return result


def double_backward(
    operands: Operands,
    geometry: Geometry,
    grad_output: Any,
    cotangents: Tangents,
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
            Tangents(*map(_describe, cotangents)),
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
    o = operands
    return Operands(*map(_describe, (o.input, o.offset, o.weight, o.bias, o.mask)))


def _describe(array: Any) -> DeviceArray | None:
    if array is None:
        return None
    dtype, pointer = array.dtype, array.data.ptr
    if pointer % dtype.itemsize:
        raise _misaligned(dtype, "address", pointer)
    return DeviceArray(pointer, array.shape, _in_elements(array.strides, dtype), _name(dtype))


@lru_cache(maxsize=4096)
def _in_elements(strides: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Strides in elements, from those in bytes."""
    if any(stride % dtype.itemsize for stride in strides):
        raise _misaligned(dtype, "strides", strides)
    return tuple(stride // dtype.itemsize for stride in strides)


def _misaligned(dtype: Any, what: str, got: Any) -> ValueError:
    return ValueError(
        f"an array of {dtype.name} on a GPU must have an address and strides that are multiples of "
        f"{dtype.itemsize} bytes, got {what} {got}; copy it byte by byte"
    )


@cache
def _name(dtype: Any) -> str:
    """Name of a dtype, which NumPy spells out anew each time."""
    return str(dtype.name)
