"""Settings of every test run, and what several test files ask for: devices, a library."""

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from hostcuda import HostDevice, compiler_path
from hypothesis import HealthCheck, settings
from support.cupy_calls import FakeCupy
from support.dlpackcases import from_dlpack
from support.gpu_engine import GpuDevice, TestDevice

from cudeform.gpu.cuda import device as gpu_device
from cudeform.gpu.cuda import prepared_launch
from cudeform.gpu.cuda.device import device_count

# The same examples in every run: a test that fails in CI fails everywhere.
settings.register_profile(
    "reproducible",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")


def pytest_configure() -> None:
    """Fail, rather than skip, where a library is missing that this run is meant to test."""
    for name in os.environ.get("CUDEFORM_REQUIRED", "").split():
        import_module(name)


@pytest.fixture(scope="session", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def new_device(request: pytest.FixtureRequest) -> Callable[..., TestDevice]:
    """Makes a device, on the CPU and on the GPU; options are those of ``HostDevice``."""
    if request.param == "host":
        if compiler_path() is None:
            pytest.skip("needs a C++ compiler")
        return HostDevice
    if device_count() == 0:
        pytest.skip("needs a GPU and CuPy")

    def on_gpu(**_: Any) -> TestDevice:
        return GpuDevice()

    return on_gpu


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def torch_device(request: pytest.FixtureRequest) -> Any:
    """A device of PyTorch."""
    torch = pytest.importorskip("torch")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(request.param)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The library of ``dlpackcases.Array``, with a way back."""
    library = ModuleType("elsewhere")
    library.from_dlpack = from_dlpack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "elsewhere", library)
    return library


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCupy]:
    """A CuPy that only writes down what it is asked."""
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    caches = (gpu_device._properties, prepared_launch._compiled, prepared_launch._allow_shared)
    monkeypatch.setattr(gpu_device, "_thread", gpu_device._Thread())
    for cache in caches:
        cache.cache_clear()
    yield fake
    for cache in caches:
        cache.cache_clear()
