"""Arrays on a GPU of a library without an adapter are imported by CuPy, here a stand-in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import build
from checks import needs_compiler
from hostcuda import HostDevice
from support.cupy_cuda import HostCuda, installed
from support.cupy_stand_in import CupyStandIn

import cudeform
from cudeform import engine
from cudeform.gpu.cuda.device import device_count

pytestmark = needs_compiler

CASE = build("through CuPy", channels=4, out_channels=2).cast("float32")
CUDA, CUDA_MANAGED, ROCM = 2, 13, 10


class Elsewhere:
    """An array of an unknown library."""

    __module__ = "elsewhere.arrays"

    def __init__(self, array: Any) -> None:
        """Wrap a CuPy array."""
        self.array, self.shape = array, array.shape


class WithDlpack(Elsewhere):
    __module__ = "elsewhere.arrays"
    kind = CUDA

    def __dlpack__(self, **how: Any) -> Any:
        return self.array  # instead of a capsule, which the stand-in could not read

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0


class Managed(WithDlpack):
    __module__ = "elsewhere.arrays"
    kind = CUDA_MANAGED


class WithInterface(Elsewhere):
    __module__ = "elsewhere.arrays"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        pointer, typestr = self.array.data.ptr, self.array.dtype.str
        return {"data": (pointer, False), "shape": self.shape, "typestr": typestr, "version": 3}


kinds = pytest.mark.parametrize("kind", [WithDlpack, Managed, WithInterface])


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[CupyStandIn]:
    with installed(HostCuda(HostDevice()), monkeypatch) as stand_in:
        yield stand_in


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The library, which takes CuPy arrays."""
    library = ModuleType("elsewhere")
    library.from_dlpack = Elsewhere  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "elsewhere", library)
    return library


def pointers_of_the_next_forward(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Addresses of what the engine reads and writes, by name."""
    seen: dict[str, int] = {}
    forward = engine.forward

    def watched(operands: Any, geometry: Any, options: Any, output: Any, device: Any) -> None:
        seen.update({name: array.pointer for name, array in operands.present().items()})
        seen["output"] = output.pointer
        forward(operands, geometry, options, output, device)

    monkeypatch.setattr(engine, "forward", watched)
    return seen


@kinds
def test_results_are_arrays_of_the_producers_library(kind: Any, cupy: Any) -> None:
    there = CASE.map(lambda array: kind(cupy.asarray(array)))
    output = cudeform.deform_conv2d(**there.arguments)
    grads = cudeform.deform_conv2d_backward(**there.backward_arguments)
    assert {type(array) for array in (output, *grads)} == {Elsewhere}
    wanted = cudeform.deform_conv2d(**CASE.arguments)
    np.testing.assert_allclose(cupy.asnumpy(output.array), wanted, rtol=1e-5, atol=1e-5)
    wanted = cudeform.deform_conv2d_backward(**CASE.backward_arguments)
    for got, other in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(cupy.asnumpy(got.array), other, rtol=1e-4, atol=1e-4)


@kinds
def test_the_engine_sees_the_producers_memory(
    kind: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = pointers_of_the_next_forward(monkeypatch)
    there = CASE.map(lambda array: kind(cupy.asarray(array)))
    output = cudeform.deform_conv2d(**there.arguments)
    operands = cudeform.Gradients._fields
    pointers = {name: getattr(there, name).array.data.ptr for name in operands}
    assert seen == pointers | {"output": output.array.data.ptr}


@kinds
def test_without_cupy_the_error_says_what_is_missing(
    kind: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = CASE.map(lambda array: kind(cupy.asarray(array)))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"CuPy cannot be imported .*pip install"):
        cudeform.deform_conv2d(**there.arguments)


def test_a_library_without_from_dlpack_is_refused(cupy: Any, library: ModuleType) -> None:
    del library.from_dlpack
    there = CASE.map(lambda array: WithInterface(cupy.asarray(array)))
    with pytest.raises(TypeError, match=r"results cannot go back to elsewhere.*cupy\.asarray"):
        cudeform.deform_conv2d(**there.arguments)


def test_other_accelerators_are_refused(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, **how: Any) -> Any:
        raise BufferError("not on the CPU")

    monkeypatch.setattr(WithDlpack, "kind", ROCM)
    monkeypatch.setattr(WithDlpack, "__dlpack__", refuse)
    there = CASE.map(lambda array: WithDlpack(cupy.asarray(array)))
    with pytest.raises(TypeError, match=r"NumPy cannot read this array of elsewhere.*not on the"):
        cudeform.deform_conv2d(**there.arguments)


class RealDlpack(WithDlpack):
    __module__ = "elsewhere.arrays"

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class RealInterface(Elsewhere):
    __module__ = "elsewhere.arrays"

    @property
    def __cuda_array_interface__(self) -> Any:
        return self.array.__cuda_array_interface__


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [RealDlpack, RealInterface])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_memory_of_a_real_gpu(kind: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device_count() == 0:
        pytest.skip("needs a GPU and CuPy")
    import cupy

    case = CASE.cast(dtype)
    there = case.map(lambda array: kind(cupy.asarray(array)))
    seen = pointers_of_the_next_forward(monkeypatch)
    output = cudeform.deform_conv2d(**there.arguments)
    assert type(output) is Elsewhere
    operands = cudeform.Gradients._fields
    pointers = {name: getattr(there, name).array.data.ptr for name in operands}
    assert seen == pointers | {"output": output.array.data.ptr}
    wanted = cudeform.deform_conv2d(**case.arguments)
    tolerance = 2e-2 if dtype == "float16" else 1e-4
    np.testing.assert_allclose(output.array.get(), wanted, rtol=tolerance, atol=tolerance)
