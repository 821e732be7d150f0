"""Fixtures for devices: the host device, which needs a C++ compiler, and a real GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.needs import COMPILER, has

collect_ignore_glob = ["*"]
if has("ml_dtypes"):
    from hostcuda import HostDevice
    from support.gpu_engine import GpuDevice, TestDevice

    from cudeform.gpu.cuda.device import device_count

    if COMPILER is not None or device_count() > 0:
        collect_ignore_glob.clear()


@pytest.fixture(scope="session", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def new_device(request: pytest.FixtureRequest) -> Callable[..., TestDevice]:
    """Makes a device, on the CPU and on the GPU; options are those of ``HostDevice``."""
    if request.param == "host":
        if COMPILER is None:
            pytest.skip("needs a C++ compiler")
        return HostDevice
    if device_count() == 0:
        pytest.skip("needs a GPU and CuPy")

    def on_gpu(**_: Any) -> TestDevice:
        return GpuDevice()

    return on_gpu
