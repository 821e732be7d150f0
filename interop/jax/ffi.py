"""A handler of XLA's foreign function interface in pure Python.

XLA calls the handler with a frame, which contains the addresses of inputs and results, and the spec
of the call as text. The structures below are those parts of ``xla/ffi/api/c_api.h`` that this
module reads. They are the same in versions 0.1 to 0.5 of the interface (jaxlib 0.5 to 0.12).
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from functools import cache, partial
from math import prod
from typing import Any

import jax
import numpy as np

from cudeform.family import OPERATORS

from . import cuda
from .call_spec import CallSpec, EngineCall, engine_call

ATTRIBUTE = "spec"

EXECUTE_STAGE = 3
METADATA_EXTENSION = 1
COMMAND_BUFFER_COMPATIBLE = 1
INTERNAL_ERROR = 13


def _struct(name: str, **fields: Any) -> Any:
    return type(name, (c.Structure,), {"_fields_": list(fields.items())})


_head = {"struct_size": c.c_size_t, "extension_start": c.c_void_p}
_Extension = _struct("Extension", struct_size=c.c_size_t, type=c.c_int, next=c.c_void_p)
_Version = _struct("Version", **_head, major=c.c_int, minor=c.c_int)
_Metadata = _struct("Metadata", struct_size=c.c_size_t, version=_Version, traits=c.c_uint32)
_MetadataExtension = _struct("MetadataExtension", base=_Extension, metadata=c.POINTER(_Metadata))
_Buffer = _struct(
    "Buffer", **_head, dtype=c.c_int, data=c.c_void_p, rank=c.c_int64, dims=c.POINTER(c.c_int64)
)
_Buffers = _struct(
    "Buffers",
    **_head,
    size=c.c_int64,
    types=c.POINTER(c.c_int),
    buffers=c.POINTER(c.POINTER(_Buffer)),
)
_Text = _struct("Text", pointer=c.c_void_p, length=c.c_size_t)
_Attributes = _struct(
    "Attributes",
    **_head,
    size=c.c_int64,
    types=c.POINTER(c.c_int),
    names=c.POINTER(c.POINTER(_Text)),
    values=c.POINTER(c.POINTER(_Text)),
)
_ErrorArguments = _struct("ErrorArguments", **_head, message=c.c_char_p, code=c.c_int)
_StreamArguments = _struct("StreamArguments", **_head, context=c.c_void_p, stream=c.c_void_p)
_DeviceArguments = _struct("DeviceArguments", **_head, context=c.c_void_p, ordinal=c.c_int32)
_Api = _struct(
    "Api",
    **_head,
    version=_Version,
    internal=c.c_void_p,
    create_error=c.CFUNCTYPE(c.c_void_p, c.POINTER(_ErrorArguments)),
    _1=c.c_void_p * 3,
    get_stream=c.CFUNCTYPE(c.c_void_p, c.POINTER(_StreamArguments)),
    _2=c.c_void_p * 12,
    get_device_ordinal=c.CFUNCTYPE(c.c_void_p, c.POINTER(_DeviceArguments)),
)
_Frame = _struct(
    "Frame",
    **_head,
    api=c.POINTER(_Api),
    context=c.c_void_p,
    stage=c.c_int,
    arguments=_Buffers,
    results=_Buffers,
    attributes=_Attributes,
)
_Handler = c.CFUNCTYPE(c.c_void_p, c.POINTER(_Frame))


def target_of(operator: str) -> str:
    """Name of the handler for calls of an operator."""
    return f"cudeform_{operator}"


def staged(spec: CallSpec, results: list[Any]) -> Callable[..., Any]:
    """A function of arrays that adds a call of the handler to the program being traced."""
    call = jax.ffi.ffi_call(target_of(spec.operator), results)
    return partial(call, **{ATTRIBUTE: spec.to_text()})


def _on_cpu(frame: Any) -> Any:
    return _handle(frame, _run_on_cpu)


def _on_cuda(frame: Any) -> Any:
    return _handle(frame, _run_on_cuda)


def _handle(pointer: Any, run: Callable[[Any, EngineCall], Any]) -> Any:
    """Run a call; return the address of an XLA error, or None for success."""
    frame = pointer.contents
    try:
        if _answer_metadata(frame) or frame.stage != EXECUTE_STAGE:
            return None
        return run(frame, _call_of(frame))
    # An exception must not propagate into C code.
    except BaseException as error:
        message = f"cudeform: {type(error).__name__}: {error}".encode()
        arguments = _ErrorArguments(c.sizeof(_ErrorArguments), None, message, INTERNAL_ERROR)
        return frame.api.contents.create_error(c.byref(arguments))


def _answer_metadata(frame: Any) -> bool:
    """If XLA asks for the metadata of the handler, fill them in and return True."""
    address = frame.extension_start
    while address:
        extension = _Extension.from_address(address)
        if extension.type == METADATA_EXTENSION:
            metadata = _MetadataExtension.from_address(address).metadata.contents
            metadata.version.major, metadata.version.minor = 0, 1
            metadata.traits = COMMAND_BUFFER_COMPATIBLE if cuda.CAPTURABLE else 0
            return True
        address = extension.next
    return False


def _call_of(frame: Any) -> EngineCall:
    text = frame.attributes.values[0].contents
    return _call_from_text(c.string_at(text.pointer, text.length))


@cache
def _call_from_text(text: bytes) -> EngineCall:
    return engine_call(CallSpec.from_text(text))


def _addresses(buffers: Any) -> list[int]:
    return [buffers.buffers[index].contents.data or 0 for index in range(buffers.size)]


def _run_on_cpu(frame: Any, call: EngineCall) -> None:
    inputs, outputs = (
        [
            _array(address, shape, _dtype(name))
            for address, shape, name in zip(_addresses(buffers), shapes, dtypes, strict=True)
        ]
        for buffers, shapes, dtypes in (
            (frame.arguments, call.input_shapes, call.input_dtypes),
            (frame.results, call.output_shapes, call.output_dtypes),
        )
    )
    call.run(inputs, outputs)


@cache
def _dtype(name: str) -> Any:
    return np.dtype(jax.numpy.dtype(name))


def _array(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    memory: Any = (c.c_char * (dtype.itemsize * prod(shape))).from_address(address)
    return np.ndarray(shape, dtype, memory)


def _run_on_cuda(frame: Any, call: EngineCall) -> Any:
    api, context = frame.api.contents, frame.context
    stream = _StreamArguments(c.sizeof(_StreamArguments), None, context, None)
    device = _DeviceArguments(c.sizeof(_DeviceArguments), None, context, -1)
    error = api.get_stream(c.byref(stream)) or api.get_device_ordinal(c.byref(device))
    if error:
        return error
    *outputs, block = _addresses(frame.results)
    nbytes = frame.results.buffers[len(outputs)].contents.dims[0]
    workspace = cuda.Block(block, nbytes)
    inputs = _addresses(frame.arguments)
    cuda.run(call, inputs, outputs, workspace, stream.stream or 0, device.ordinal)
    return None


# XLA keeps the addresses of the handlers until the process ends, so these objects must too.
HANDLERS = {"cpu": _Handler(_on_cpu), "CUDA": _Handler(_on_cuda)}

for _platform, _handler in HANDLERS.items():
    _capsule = jax.ffi.pycapsule(c.cast(_handler, c.c_void_p).value)
    for _operator in OPERATORS:
        jax.ffi.register_ffi_target(target_of(_operator), _capsule, platform=_platform)
