"""An array library whose arrays have DLPack and nothing else, and calls with its arrays."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import Case, named

import cudeform
from cudeform import engine

CASE = named("torchvision, offset half")
OPERANDS = cudeform.Gradients._fields


class Array:
    """The minimum that a producer must have, over a NumPy array."""

    __module__ = "elsewhere.arrays"

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = array.shape
        self.handed_out = 0

    def __dlpack__(self, **how: Any) -> Any:
        self.handed_out += 1
        return self._array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def from_dlpack(producer: Any) -> Array:
    """``from_dlpack`` of the library."""
    return Array(np.from_dlpack(producer))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The library of ``Array``, with a way back."""
    library = ModuleType("elsewhere")
    library.from_dlpack = from_dlpack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "elsewhere", library)
    return library


def forward(case: Case) -> Any:
    """The output of a case."""
    return cudeform.deform_conv2d(**case.arguments)


def backward(case: Case, **more: Any) -> cudeform.Gradients:
    """The gradients of a case."""
    return cudeform.deform_conv2d_backward(**case.backward_arguments, **more)


def plain(array: Any) -> Any:
    """A NumPy array of the same memory."""
    return np.from_dlpack(array)


def watch_pointers(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Addresses of what the next forward of the engine reads and writes, by name."""
    seen: dict[str, int] = {}
    run = engine.forward

    def watched(operands: Any, geometry: Any, options: Any, output: Any, *device: Any) -> None:
        seen.update({name: array.ctypes.data for name, array in operands.present().items()})
        seen["output"] = output.ctypes.data
        run(operands, geometry, options, output, *device)

    monkeypatch.setattr(engine, "forward", watched)
    return seen
