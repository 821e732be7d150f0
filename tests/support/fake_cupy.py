"""As much of CuPy as cudeform uses, over the host's device."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from math import prod
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hostcuda import HostDevice
from support.fake_driver import Driver

from cudeform.arrays import DeviceArray
from cudeform.gpu.cuda import device
from cudeform.gpu.replay import launch_plans

STREAM = 5


class ndarray:  # the door knows CuPy's arrays by this name
    """An array in the memory of the host's device."""

    def __init__(self, gpu: HostDevice, described: DeviceArray) -> None:
        """Wrap what the device holds."""
        self.gpu, self.described = gpu, described
        self.shape, self.dtype = described.shape, gpu.read(described).dtype
        self.itemsize = self.dtype.itemsize
        self.strides = tuple(stride * self.itemsize for stride in described.strides)
        self.data = SimpleNamespace(ptr=described.pointer)
        self.device = _Device()

    def transpose(self, *order: int) -> ndarray:
        """A view."""
        mine = self.described
        shape = tuple(mine.shape[axis] for axis in order)
        strides = tuple(mine.strides[axis] for axis in order)
        return ndarray(self.gpu, DeviceArray(mine.pointer, shape, strides, mine.dtype))

    def copy(self) -> ndarray:
        """A contiguous copy."""
        return ndarray(self.gpu, self.gpu.put(np.ascontiguousarray(self.gpu.read(self.described))))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _described(interface: dict[str, Any]) -> DeviceArray:
    """Contiguous memory as the CUDA array interface tells of it."""
    shape, dtype = interface["shape"], np.dtype(interface["typestr"])
    return DeviceArray(interface["data"][0], shape, contiguous(shape), dtype.name)


class _Device:
    id = 0

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *error: object) -> None:
        pass


ndarray.__module__ = "cupy"


def install(monkeypatch: pytest.MonkeyPatch, gpu: HostDevice) -> Any:
    """Make ``import cupy`` give this fake, whose GPU is ``gpu``."""
    cupy: Any = ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)

    def empty(shape: Sequence[int], dtype: Any) -> ndarray:
        return ndarray(gpu, gpu.empty(tuple(shape), np.dtype(dtype).name))

    cupy.ndarray, cupy.empty, cupy.__version__ = ndarray, empty, "fake"

    def asarray(array: Any) -> ndarray:
        there = getattr(array, "__cuda_array_interface__", None)
        return ndarray(gpu, _described(there) if there else gpu.put(array))

    cupy.asarray = asarray
    cupy.from_dlpack = lambda array: ndarray(gpu, array.__dlpack__())
    cupy.asnumpy = lambda array: array.gpu.read(array.described)
    cupy.driver = Driver(gpu)
    cupy.RawKernel = cupy.driver.raw_kernel
    cupy.cuda = cupy.driver.module()
    cupy.cuda.Device = lambda index: _Device()
    stream = SimpleNamespace(ptr=STREAM)
    cupy.cuda.get_current_stream = lambda *_: stream
    cupy.is_available = lambda: True
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(
        device, "_properties", lambda _: (gpu.compute_capability, gpu.multiprocessors)
    )
    monkeypatch.setattr(launch_plans, "PLANS", launch_plans.PlanCache())
    return cupy
