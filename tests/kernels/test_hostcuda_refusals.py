"""A launch that no GPU accepts is refused on the host, and so is wrong source text."""

from __future__ import annotations

import numpy as np
import pytest
from checks import needs_compiler
from hostcuda import CompileError, HostDevice
from hostcuda.toys import DOUBLE, params, run, toy, values

pytestmark = needs_compiler


def test_a_launch_that_no_gpu_would_do_is_refused() -> None:
    device = HostDevice(shared_limit=1000)
    kernel = toy(DOUBLE)
    a, b = device.put(values(4)), device.empty((4,), "float32")
    for launch, message in (
        ({"threads": 1025}, "threads must be 1 to 1024, got 1025"),
        ({"blocks": 0}, "blocks must be 1 to 2147483647, got 0"),
        ({"shared_bytes": 1001}, "shared_bytes must be at most 1000, got 1001"),
    ):
        with pytest.raises(ValueError, match=message):
            run(device, kernel, a, b, **launch)
    with pytest.raises(TypeError, match="toy takes 2 pointers, got 1"):
        run(device, kernel, a)
    with pytest.raises(TypeError, match="toy takes a struct of 8 bytes, got 1 of 4 bytes"):
        device.launch(kernel, 1, 1, (a.pointer, b.pointer), np.zeros(1, np.int32))
    device.free(a)
    with pytest.raises(ValueError, match=r"pointer 0 is at byte 0 of a buffer .*, which was freed"):
        run(device, kernel, a, b)
    device.launch(kernel, 1, 1, (0, b.pointer), params())  # an array that is absent
    assert len(device.log) == 1


@pytest.mark.parametrize(
    ("body", "parameters", "message"),
    [
        ("\nb[i] = c[i];", "const float* a, float* b", r"toy\.cu:2:.* 'c' was not declared"),
        ("b[i] = a[i] * 0.5;", "const float* a, float* b", r"toy\.cu:1:.*double-promotion"),
        ("int lanes = __activemask();", "float* b", "pass an explicit mask"),
        ("atomicAdd(b, 1);", "short* b", r"deleted function"),
        ("", "float* b, int n", "a kernel takes pointers and then one struct"),
    ],
)
def test_a_text_that_is_wrong_is_refused(body: str, parameters: str, message: str) -> None:
    device = HostDevice()
    with pytest.raises(CompileError, match=message):
        run(device, toy(body, parameters))
