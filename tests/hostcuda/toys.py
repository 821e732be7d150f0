"""Toy kernels for the tests of the harness itself, and functions that run them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cudeform.arrays import DeviceArray
from cudeform.gpu.device_api.commands import Kernel
from hostcuda.device import HostDevice
from hostcuda.library import KernelError

# Kernels without a barrier, with a barrier of the block, and with an operation of the warp.
DOUBLE = "if (i < g.n) b[i] = 2 * a[i];"
REVERSE = """
    float* tile = reinterpret_cast<float*>(dynamic_shared());
    tile[threadIdx.x] = a[i];
    __syncthreads();
    b[i] = tile[blockDim.x - 1 - threadIdx.x];
"""
SUM = """
    float sum = a[i];
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
    if (threadIdx.x % warpSize == 0) b[i / warpSize] = sum;
"""


def toy(body: str, parameters: str = "const float* a, float* b", helpers: str = "") -> Kernel:
    """A kernel whose body may use ``i``, the global thread, and ``g.n`` and ``g.what``."""
    text = (
        f"struct Geometry {{ int n, what; }};\n{helpers}\n"
        f'extern "C" __global__ void toy({parameters}, Geometry g) {{\n'
        "const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);\n"
        f'#line 1 "toy.cu"\n{body}\n}}\n'
    )
    return Kernel("toy", text)


def params(n: int = 0, what: int = 0) -> Any:
    """The struct of a toy kernel."""
    return np.array([(n, what)], np.dtype([("n", np.int32), ("what", np.int32)], align=True))


def run(
    device: HostDevice,
    kernel: Kernel,
    *arrays: DeviceArray,
    n: int = 0,
    what: int = 0,
    blocks: int = 1,
    threads: int = 64,
    shared_bytes: int = 0,
) -> None:
    """Launch a toy kernel."""
    pointers = [array.pointer for array in arrays]
    device.launch(kernel, blocks, threads, pointers, params(n, what), shared_bytes)


def fault(device: HostDevice, kernel: Kernel, *arrays: DeviceArray, **launch: int) -> KernelError:
    """The error that a launch of a faulty toy kernel raises."""
    with pytest.raises(KernelError) as raised:
        run(device, kernel, *arrays, **launch)
    return raised.value


def values(count: int, dtype: str = "float32") -> Any:
    """1, 2, 3, ..."""
    return np.arange(1, count + 1).astype(dtype)
