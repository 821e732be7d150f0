"""The interface of the engine for adapters: an operator and its derivatives on plain buffers.

An adapter passes operands, their geometry, the options and the arrays to write, which it has
allocated in its own library. On the CPU all arrays are NumPy arrays. On a GPU they are
``DeviceArray``, and the adapter also passes the device. The engine checks nothing, because adapters
have checked the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from cudeform.gpu.device_api.protocol import Executor, Memory

    Composition = Callable[..., None]


def gpu_device(
    index: int,
    stream: int,
    allocate: Callable[[int], Memory] | None = None,
    *,
    out_of_memory: tuple[type[Exception], ...] = (),
    free_bytes: int | None = None,
) -> Executor:
    """Select a GPU to run on.

    Args:
        index: number of the device.
        stream: address of the stream on which everything is queued.
        allocate: allocates workspace for that device and stream; None means CuPy's pool.
        out_of_memory: exception other than MemoryError that ``allocate`` raises if memory is
            exhausted.
        free_bytes: the free memory to plan for; None asks the driver.

    Raises:
        RuntimeError: CuPy or a GPU is missing; the text says what to do.
    """
    from cudeform.gpu.cuda.device import CupyDevice, pool_allocate

    return CupyDevice(
        index,
        stream,
        allocate or pool_allocate,
        out_of_memory=out_of_memory,
        free_bytes=free_bytes,
    )


def workspace_bytes(
    function: Callable[..., None],
    operands: Operands,
    geometry: Geometry,
    options: Options,
    *arrays: Any,
    device: Executor,
) -> int:
    """Bytes of workspace that ``function`` allocates on a GPU, as one block.

    Nothing runs, and no memory is read: the pointers of arrays matter only modulo 16.

    Args:
        function: forward, backward, jvp or double_backward of this module.
        operands: first argument of ``function``.
        geometry: second argument of ``function``.
        options: third argument of ``function``.
        *arrays: the other arguments of ``function``.
        device: the device, or one like it: ``gpu_device`` with the same ``free_bytes``.
    """
    from cudeform import gpu

    on_gpu = getattr(gpu, function.__name__)
    return gpu.workspace_bytes(on_gpu, device, operands, geometry, options, *arrays)


def forward(
    operands: Operands,
    geometry: Geometry,
    options: Options,
    output: Any,
    device: Executor | None = None,
) -> None:
    """Write the deformable convolution of ``operands`` into ``output``, (N, O, OH, OW)."""
    if device is None:
        from cudeform import cpu

        cpu.forward(operands, geometry, options, output)
        return
    from cudeform import gpu

    gpu.run(gpu.forward, device, operands, geometry, options, output)


def backward(
    operands: Operands,
    geometry: Geometry,
    options: Options,
    grad_output: Any,
    grads: Gradients,
    device: Executor | None = None,
) -> None:
    """Write gradients into the arrays of ``grads``; those that are None are not computed."""
    if device is None:
        from cudeform import cpu

        cpu.backward(operands, geometry, options, grad_output, grads)
        return
    from cudeform import gpu

    gpu.run(gpu.backward, device, operands, geometry, options, grad_output, grads)


def jvp(
    operands: Operands,
    geometry: Geometry,
    options: Options,
    tangents: Tangents,
    output_tangent: Any,
    device: Executor | None = None,
) -> None:
    """Write the tangent of the output, given tangents of the operands; None means zero."""
    if device is None:
        from cudeform import cpu

        cpu.jvp(operands, geometry, options, tangents, output_tangent)
        return
    from cudeform import gpu

    gpu.run(gpu.jvp, device, operands, geometry, options, tangents, output_tangent)


def double_backward(
    operands: Operands,
    geometry: Geometry,
    options: Options,
    grad_output: Any,
    cotangents: Tangents,
    results: DoubleGradients,
    device: Executor | None = None,
) -> None:
    """Write the gradients of ``sum(cotangents * backward(...))`` into ``results``.

    A cotangent that is None means zero; a result that is None is not computed.
    """
    if device is None:
        from cudeform import cpu

        cpu.double_backward(operands, geometry, options, grad_output, cotangents, results)
        return
    from cudeform import gpu

    arrays = grad_output, cotangents, results
    gpu.run(gpu.double_backward, device, operands, geometry, options, *arrays)


class ComposedEngine:
    """The engine of an operator that is composed of functions of ``cpu`` and of ``gpu``.

    A composition takes ``(engine, arithmetic, operands, geometry, options, *arrays)``: functions of
    the CPU or of a device, the arithmetic on arrays there, and what the function of this module of
    the same name takes. On a GPU all of a composition is one launch plan.
    """

    def __init__(
        self,
        *,
        forward: Composition,
        backward: Composition,
        jvp: Composition,
        double_backward: Composition,
    ) -> None:
        """Take the compositions."""
        self._compositions = {
            "forward": forward,
            "backward": backward,
            "jvp": jvp,
            "double_backward": double_backward,
        }
        self._on_device = {name: _on_device(each) for name, each in self._compositions.items()}

    def workspace_bytes(
        self,
        function: Callable[..., None],
        operands: Operands,
        geometry: Any,
        options: Options,
        *arrays: Any,
        device: Executor,
    ) -> int:
        """As ``engine.workspace_bytes``, for a function of this engine."""
        from cudeform import gpu

        recorded = self._on_device[function.__name__]
        return gpu.workspace_bytes(recorded, device, operands, geometry, options, *arrays)

    def forward(
        self,
        operands: Operands,
        geometry: Any,
        options: Options,
        output: Any,
        device: Executor | None = None,
    ) -> None:
        """Write the output."""
        self._run("forward", device, operands, geometry, options, output)

    def backward(
        self,
        operands: Operands,
        geometry: Any,
        options: Options,
        grad_output: Any,
        grads: Gradients,
        device: Executor | None = None,
    ) -> None:
        """Write gradients into the arrays of ``grads``; those that are None are not computed."""
        self._run("backward", device, operands, geometry, options, grad_output, grads)

    def jvp(
        self,
        operands: Operands,
        geometry: Any,
        options: Options,
        tangents: Tangents,
        output_tangent: Any,
        device: Executor | None = None,
    ) -> None:
        """Write the tangent of the output, given tangents of the operands; None stands for zero."""
        self._run("jvp", device, operands, geometry, options, tangents, output_tangent)

    def double_backward(
        self,
        operands: Operands,
        geometry: Any,
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
        self._run("double_backward", device, operands, geometry, options, *arrays)

    def _run(self, operation: str, device: Executor | None, *call: Any) -> None:
        if device is None:
            from cudeform import cpu

            self._compositions[operation](cpu, cpu.Arithmetic(), *call)
            return
        from cudeform import gpu

        gpu.run(self._on_device[operation], device, *call)


def _on_device(composition: Composition) -> Callable[..., None]:
    """A composition as ``gpu.run`` records it."""

    def recorded(
        device: Any, operands: Operands, geometry: Any, options: Options, *arrays: Any
    ) -> None:
        from cudeform import gpu

        engine, arithmetic = gpu.OnDevice(device), gpu.Arithmetic(device)
        composition(engine, arithmetic, operands, geometry, options, *arrays)

    return recorded
