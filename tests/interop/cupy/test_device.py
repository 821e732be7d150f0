"""Calls of CuPy about a device."""

from __future__ import annotations

import sys
from threading import Thread

import pytest
from support.cupy_cuda import RecordedCuda
from support.cupy_stand_in import Cuda, CupyStandIn

from cudeform.gpu.cuda import device as module
from cudeform.gpu.cuda.device import CupyDevice


def test_properties_of_a_device(cuda: RecordedCuda) -> None:
    device = CupyDevice(1, 99)
    assert (device.compute_capability, device.multiprocessors) == (90, 132)
    assert device.free_bytes() == 1000
    assert cuda.kinds() == ["enter", "context", "exit"]
    assert device.allocate(10).pointer == 512


def test_a_context_is_made_once_in_each_thread(cuda: RecordedCuda) -> None:
    """The driver launches only with a context, and nothing else may have made one."""

    def run() -> None:
        for index in (0, 0, 1):
            CupyDevice(index, 0).replay([], [0], [])

    for _ in range(2):
        thread = Thread(target=run)
        thread.start()
        thread.join()
    assert cuda.kinds().count("context") == 4


@pytest.mark.usefixtures("cuda")
def test_another_cupy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.usable_cupy() is sys.modules["cupy"]
    other = CupyStandIn(Cuda())
    monkeypatch.setitem(sys.modules, "cupy", other)
    assert module.usable_cupy() is other
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(module.GpuUnavailableError):
        module.usable_cupy()
