"""Memory that was never written contains poison on the host: global and shared memory."""

from __future__ import annotations

import numpy as np
from checks import needs_compiler
from hostcuda import HostDevice
from hostcuda.toys import DOUBLE, run, toy, values
from numpy.testing import assert_array_equal

pytestmark = needs_compiler


def test_a_forgotten_element_stays_poison() -> None:
    device = HostDevice()
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        assert np.isnan(device.read(device.empty((3,), dtype)).astype(float)).all()
    a, b = device.put(values(60)), device.empty((60,), "float32")
    run(device, toy(DOUBLE.replace("g.n", "g.n - 1")), a, b, n=60)
    assert_array_equal(np.isnan(device.read(b)), np.arange(60) == 59)


def test_shared_memory_is_poison_in_every_block() -> None:
    kernel = toy("""
        __shared__ float tile[4], never[4];
        float* dynamic = reinterpret_cast<float*>(dynamic_shared());
        b[3 * blockIdx.x] = tile[2];
        b[3 * blockIdx.x + 1] = never[threadIdx.x];
        b[3 * blockIdx.x + 2] = dynamic[3];
        tile[2] = dynamic[3] = a[0];
    """)
    device = HostDevice()
    a, b = device.put(values(1)), device.empty((3, 3), "float32")
    device.fill_zero(b.pointer, 36)
    run(device, kernel, a, b, blocks=3, threads=1, shared_bytes=16)
    assert np.isnan(device.read(b)).all()
