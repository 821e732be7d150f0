"""The GPU engine on a test device: the host device, or a real GPU.

Unless a call is ``planned``, the engine's functions queue their commands on the device at once. On
the CPU, each block of workspace then lies between guard pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from cases import Case
from hostcuda import HostDevice, Launched
from hostcuda.views import DTYPES, contiguous, reach, view
from numpy.typing import NDArray
from support.cpu_engine import geometry

from cudeform import engine, gpu
from cudeform.arrays import DeviceArray, DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import GRADIENTS
from cudeform.gpu import overrides
from cudeform.gpu.algorithms import direct
from cudeform.gpu.cuda.device import CupyDevice, PoolMemory, pool_allocate
from cudeform.gpu.device_api.commands import Command, Kernel, Step
from cudeform.gpu.device_api.protocol import Device
from cudeform.options import Options

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
POISON = 0xFF


class TestDevice(Device, Protocol):
    """A device that holds arrays for a test; what nobody wrote is poison."""

    __test__ = False

    def put(self, array: NDArray[Any], *, skew: int = 0) -> DeviceArray:
        """Copy an array to the device with its strides, ``skew`` elements behind alignment."""

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: str,
        *,
        strides: tuple[int, ...] | None = None,
        skew: int = 0,
    ) -> DeviceArray:
        """An array full of poison; without gaps if no strides are given."""

    def read(self, array: DeviceArray) -> NDArray[Any]:
        """A copy of what an array holds now."""


# What the fixture ``new_device`` gives; options are those of ``HostDevice``.
NewDevice = Callable[..., TestDevice]


class GpuDevice(CupyDevice):
    """The first GPU, as a ``TestDevice``."""

    def __init__(self) -> None:
        super().__init__(0, 0, self._poisoned)
        self._held: list[PoolMemory] = []

    def _poisoned(self, nbytes: int) -> PoolMemory:
        memory = pool_allocate(nbytes)
        assert isinstance(memory, PoolMemory)
        if nbytes:
            self._runtime.memset(memory.pointer, POISON, nbytes)
        return memory

    def queue(self, command: Command, pointers: Sequence[int]) -> None:
        """Queue one command, so that the engine's functions can be called without a plan."""
        addresses = tuple((base, 0) for base in range(len(pointers)))
        self.replay([Step(command, addresses)], pointers, [])

    @property
    def _runtime(self) -> Any:
        return self._cupy.cuda.runtime

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: str,
        *,
        strides: tuple[int, ...] | None = None,
        skew: int = 0,
    ) -> DeviceArray:
        strides = contiguous(shape) if strides is None else strides
        low, high = reach(shape, strides)
        itemsize = DTYPES[dtype].itemsize
        memory = self._poisoned((skew + high - low) * itemsize)
        self._held.append(memory)
        return DeviceArray(memory.pointer + (skew - low) * itemsize, shape, strides, dtype)

    def put(self, array: NDArray[Any], *, skew: int = 0) -> DeviceArray:
        strides = tuple(stride // array.itemsize for stride in array.strides)
        result = self.empty(array.shape, array.dtype.name, strides=strides, skew=skew)
        low, high = reach(array.shape, strides)
        data = np.full((high - low) * array.itemsize, POISON, np.uint8)
        view(0, array.shape, strides, array.dtype.name, lambda *_: data)[...] = array
        if data.size:
            start = result.pointer + low * array.itemsize
            self._runtime.memcpy(start, data.ctypes.data, data.size, HOST_TO_DEVICE)
        return result

    def read(self, array: DeviceArray) -> NDArray[Any]:
        low, high = reach(array.shape, array.strides)
        itemsize = DTYPES[array.dtype].itemsize
        data = np.empty((high - low) * itemsize, np.uint8)
        if data.size:
            start = array.pointer + low * itemsize
            self._runtime.memcpy(data.ctypes.data, start, data.size, DEVICE_TO_HOST)
        return view(0, array.shape, array.strides, array.dtype, lambda *_: data).copy()


class LoggingDevice(HostDevice):
    """A device on the CPU that also logs fills and the texts of kernels.

    Attributes:
        zeroed: bytes of each fill, in order.
        texts: text of each kernel that was launched, by name.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.zeroed: list[int] = []
        self.texts: dict[str, str] = {}

    def launch(self, kernel: Kernel, *how: Any) -> None:
        super().launch(kernel, *how)
        self.texts[kernel.name] = kernel.source

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        super().fill_zero(pointer, nbytes)
        self.zeroed.append(nbytes)


def launches(device: HostDevice) -> Counter[str]:
    """How often each kernel was launched; products are "gemm"."""
    return Counter(did.kernel if isinstance(did, Launched) else "gemm" for did in device.log)


def bytes_moved(device: HostDevice, kernel: str) -> tuple[int, int, int]:
    """Bytes that the one launch of a kernel loaded, stored and added."""
    [did] = [d for d in device.log if isinstance(d, Launched) and d.kernel == kernel]
    return did.loaded, did.stored, did.added


def operands(device: TestDevice, case: Case, *, skew: int = 0) -> Operands:
    """The arrays of a case on a device."""
    arrays = {name: getattr(case, name) for name in GRADIENTS}
    return Operands(**{n: device.put(a, skew=skew) for n, a in arrays.items() if a is not None})


def forward(
    device: TestDevice,
    case: Case,
    options: Options | None = None,
    *,
    skew: int = 0,
    planned: bool = False,
) -> NDArray[Any]:
    """The output of a case."""
    g, ops = geometry(case), operands(device, case, skew=skew)
    output = device.empty(g.output_shape, case.input.dtype.name, skew=skew)
    if planned:
        engine.forward(ops, g, options or Options(), output, device)
    else:
        gpu.forward(device, ops, g, options or Options(), output)
    return device.read(output)


def backward(
    device: TestDevice,
    case: Case,
    options: Options | None = None,
    *,
    needs: tuple[str, ...] = GRADIENTS,
    skew: int = 0,
    planned: bool = False,
) -> dict[str, NDArray[Any]]:
    """The gradients of a case, by name."""
    g, ops = geometry(case), operands(device, case, skew=skew)
    grad_output = device.put(case.grad_output, skew=skew)
    wanted = {name: array for name, array in ops.present().items() if name in needs}
    grads = {
        name: device.empty(array.shape, array.dtype, skew=skew) for name, array in wanted.items()
    }
    if planned:
        engine.backward(ops, g, options or Options(), grad_output, Gradients(**grads), device)
    else:
        gpu.backward(device, ops, g, options or Options(), grad_output, Gradients(**grads))
    return {name: device.read(array) for name, array in grads.items()}


def on_host(
    case: Case, tangents: dict[str, Any], options: Options, planned: bool = False, **device: Any
) -> Any:
    """The tangent of the output and the double gradients of a case, on a device on the CPU."""
    host = HostDevice(**device)
    put = {name: host.put(array) for name, array in case.operands.items()}
    along = Tangents(**{name: host.put(array) for name, array in tangents.items()})
    shapes = geometry(case)
    dtype = case.input.dtype.name
    tangent = host.empty(shapes.output_shape, dtype)
    if planned:
        engine.jvp(Operands(**put), shapes, options, along, tangent, host)
    else:
        gpu.jvp(host, Operands(**put), shapes, options, along, tangent)
    results: dict[str, DeviceArray] = {
        name: host.empty(array.shape, dtype)
        for name, array in {"grad_output": case.grad_output, **case.operands}.items()
        if name != "bias"
    }
    grad_output = host.put(case.grad_output)
    wanted = DoubleGradients(**results)
    rest = grad_output, along, wanted
    if planned:
        engine.double_backward(Operands(**put), shapes, options, *rest, host)
    else:
        gpu.double_backward(host, Operands(**put), shapes, options, *rest)
    return host.read(tangent), {name: host.read(array) for name, array in results.items()}


def everything(
    device: TestDevice, case: Case, options: Options | None = None, **how: Any
) -> dict[str, NDArray[Any]]:
    """The output and all gradients of a case, by name."""
    output = forward(device, case, options, **how)
    return {"output": output, **backward(device, case, options, **how)}


def bits(results: dict[str, NDArray[Any]]) -> dict[str, bytes]:
    """Results in a form that is equal where all bits are, NaN included."""
    return {name: array.tobytes() for name, array in results.items()}


def fits_direct(case: Case) -> bool:
    """Whether the engine computes a case without columns."""
    return 0 not in case.grad_output.shape and direct.supports(geometry(case))


@contextmanager
def through_columns(really: bool = True) -> Iterator[None]:
    """Make the engine use columns and products for every convolution."""
    with overrides.force(algorithm="im2col" if really else None):
        yield


def widened(case: Case, factor: int) -> Case:
    """A case with ``factor`` channels for each of its own, so that kernels take several at once."""
    shape = (1, case.input.shape[1] * factor, 1, 1)
    factors = np.random.default_rng(factor).uniform(0.5, 1.5, shape)
    return replace(
        case,
        name=f"{case.name}, {factor} times as wide",
        input=np.repeat(case.input, factor, axis=1) * factors,
        weight=np.repeat(case.weight, factor, axis=1),
    )
