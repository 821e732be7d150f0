"""Arrays of real libraries without an adapter, and of torch and JAX by their DLPack alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, named
from support.dlpackcases import OPERANDS, watch_pointers

import cudeform

CASE = named("torchvision, offset half")


@dataclass
class Library:
    """Functions between NumPy and a library, the type of its arrays, and its dtypes."""

    make: Callable[[Any], Any]
    read: Callable[[Any], Any]
    kind: type
    dtypes: tuple[str, ...] = tuple(DTYPES)


def of_array_api_strict(monkeypatch: pytest.MonkeyPatch) -> Library:
    strict = pytest.importorskip("array_api_strict")
    kind = type(strict.ones(1))
    return Library(strict.asarray, np.from_dlpack, kind, ("float32", "float64"))


def of_mlx(monkeypatch: pytest.MonkeyPatch) -> Library:
    mlx = pytest.importorskip("mlx.core")

    def make(array: Any) -> Any:
        made = mlx.array(array.astype(np.float32)).astype(getattr(mlx, array.dtype.name))
        mlx.eval(made)
        return made

    def read(array: Any) -> Any:
        return np.array(array.astype(mlx.float32))

    return Library(make, read, mlx.array, ("float16", "bfloat16", "float32"))


def of_warp(monkeypatch: pytest.MonkeyPatch) -> Library:
    warp = pytest.importorskip("warp")
    return Library(lambda a: warp.array(a, device="cpu"), np.from_dlpack, warp.array, ("float32",))


def of_torch(monkeypatch: pytest.MonkeyPatch) -> Library:
    torch = pytest.importorskip("torch")

    def make(array: Any) -> Any:
        wide = torch.from_numpy(array.astype(np.float64))
        return Hidden(wide.to(getattr(torch, array.dtype.name)))

    hide_behind_dlpack(monkeypatch, torch.from_dlpack)
    return Library(make, lambda array: array.array.double().numpy(), Hidden)


def of_jax(monkeypatch: pytest.MonkeyPatch) -> Library:
    jax = pytest.importorskip("jax")
    hide_behind_dlpack(monkeypatch, jax.dlpack.from_dlpack)
    kinds = ("float16", "bfloat16", "float32")  # float64 is not JAX's default
    on_cpu = jax.devices("cpu")[0]
    return Library(
        lambda array: Hidden(jax.device_put(array, on_cpu)),
        lambda array: np.asarray(array.array),
        Hidden,
        kinds,
    )


class Hidden:
    """An array of a library that has an adapter, reduced to its DLPack and its shape."""

    __module__ = "hidden.arrays"

    def __init__(self, array: Any) -> None:
        self.array, self.shape = array, tuple(array.shape)

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def hide_behind_dlpack(monkeypatch: pytest.MonkeyPatch, from_dlpack: Callable[..., Any]) -> None:
    library = ModuleType("hidden")
    library.from_dlpack = lambda array: Hidden(from_dlpack(array))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hidden", library)


LIBRARIES = (of_array_api_strict, of_mlx, of_warp, of_torch, of_jax)


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__.removeprefix("of_"))
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    made: Library = request.param(monkeypatch)
    return made


@pytest.mark.promise("any array")
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_those_of_numpy_arrays(library: Library, dtype: str) -> None:
    if dtype not in library.dtypes:
        pytest.skip("the library lacks the dtype")
    case = CASE.cast(dtype)
    there = case.map(library.make)
    output = cudeform.deform_conv2d(**there.arguments)
    grads = cudeform.deform_conv2d_backward(**there.backward_arguments)
    wanted = cudeform.deform_conv2d_backward(**case.backward_arguments)
    for got, other in zip(
        (output, *grads), (cudeform.deform_conv2d(**case.arguments), *wanted), strict=True
    ):
        assert type(got) is library.kind
        np.testing.assert_array_equal(library.read(got), other.astype(library.read(got).dtype))


@pytest.mark.promise("any array")
def test_nothing_is_copied_on_the_way_in(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    there = CASE.cast("float32").map(library.make)
    seen = watch_pointers(monkeypatch)
    cudeform.deform_conv2d(**there.arguments)
    for name in OPERANDS:
        assert seen[name] == np.from_dlpack(getattr(there, name)).ctypes.data
