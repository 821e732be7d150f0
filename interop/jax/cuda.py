"""A call on a GPU: XLA's device, stream and memory, described for the engine.

Nothing is allocated outside XLA: the engine's workspace, one block per call, is the last result of
the custom call. Its size is computed when the program is lowered, for the GPUs that will run it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple

import jax

from cudeform import engine
from cudeform.arrays import DeviceArray

from .call_spec import CallSpec, EngineCall, Shape, engine_call

ALIGNMENT = 256

# Unless the caller sets a limit, the engine plans its workspace from the free memory. XLA reserves
# nearly all memory of the GPU, and the plan must be the same at lowering and in the call, so the
# engine gets this constant instead.
FREE_BYTES = 2**30

# Whether XLA may record a call into a CUDA graph. CuPy rejects cuBLAS calls during a capture.
CAPTURABLE = False


# ---- while a program is lowered ------------------------------------------------------------------


def local_gpus(devices: Iterable[Any]) -> tuple[int, ...]:
    """CUDA ordinals of the given devices that are GPUs of this process.

    If there are none, as in an export, the result is all GPUs of this process.

    Raises:
        RuntimeError: this process has no GPU.
    """
    process = jax.process_index()
    gpus = [each for each in devices if each.platform == "gpu" and each.process_index == process]
    if not gpus:
        try:
            gpus = jax.local_devices(backend="cuda")
        except RuntimeError as error:
            raise RuntimeError(
                "an operator can be lowered for CUDA only on a machine where JAX has a GPU, "
                f"because the size of its workspace depends on the GPU: {error}"
            ) from error
    return tuple(sorted({each.local_hardware_id for each in gpus}))


def workspace(spec: CallSpec, gpus: Sequence[int]) -> jax.ShapeDtypeStruct:
    """The result of the custom call that is the workspace; it is large enough for all GPUs."""
    nbytes = max(workspace_bytes(spec, gpu) for gpu in gpus)
    return jax.ShapeDtypeStruct((nbytes + ALIGNMENT,), "uint8")


@cache
def workspace_bytes(spec: CallSpec, gpu: int) -> int:
    """Bytes of workspace that a call needs on a GPU."""
    call = engine_call(spec)
    # Of the addresses only the alignment matters, and XLA aligns its buffers.
    inputs, outputs = (
        [_device_array(ALIGNMENT, *each) for each in zip(shapes, dtypes, strict=True)]
        for shapes, dtypes in (
            (call.input_shapes, call.input_dtypes),
            (call.output_shapes, call.output_dtypes),
        )
    )
    device = engine.gpu_device(gpu, 0, free_bytes=FREE_BYTES)
    return call.workspace_bytes(inputs, outputs, device)


# ---- while a program runs ------------------------------------------------------------------------


class Block(NamedTuple):
    """XLA's memory for the workspace."""

    pointer: int
    nbytes: int

    def allocate(self, nbytes: int) -> Block:
        """The aligned part of the block; the engine calls this once per call.

        Raises:
            RuntimeError: the block is too small.
        """
        skipped = -self.pointer % ALIGNMENT
        if skipped + nbytes > self.nbytes:
            raise RuntimeError(
                f"this GPU needs a workspace of {nbytes} bytes, but the program was lowered for "
                f"one that needs {self.nbytes - ALIGNMENT}; lower it where this GPU is"
            )
        return Block(self.pointer + skipped, nbytes)


def callback(spec: CallSpec) -> Callable[..., None]:
    """The function that ``buffer_callback`` calls."""
    call = engine_call(spec)

    def run_on_buffers(context: Any, results: Any, *arrays: Any) -> None:
        *outputs, block = results
        workspace = Block(_pointer(block), block.__cuda_array_interface__["shape"][0])
        gpu = arrays[0].__dlpack_device__()[1]
        pointers = [*map(_pointer, arrays)], [*map(_pointer, outputs)]
        run(call, *pointers, workspace, context.stream, gpu)

    return run_on_buffers


def _pointer(buffer: Any) -> int:
    pointer: int = buffer.__cuda_array_interface__["data"][0]
    return pointer


def run(
    call: EngineCall,
    inputs: Sequence[int],
    outputs: Sequence[int],
    workspace: Block,
    stream: int,
    gpu: int,
) -> None:
    """Queue a call on arrays at the given addresses."""
    given, written = (
        [_device_array(*each) for each in zip(pointers, shapes, dtypes, strict=True)]
        for pointers, shapes, dtypes in (
            (inputs, call.input_shapes, call.input_dtypes),
            (outputs, call.output_shapes, call.output_dtypes),
        )
    )
    device = engine.gpu_device(gpu, stream, workspace.allocate, free_bytes=FREE_BYTES)
    call.run(given, written, device)


def _device_array(pointer: int, shape: Shape, dtype: str) -> DeviceArray:
    strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return DeviceArray(pointer, shape, strides, dtype)
