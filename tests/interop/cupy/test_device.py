"""What is asked of CuPy about a device, and when."""

from __future__ import annotations

import sys
from threading import Thread

import pytest
from support.cupy_calls import ZERO, FakeCupy, kinds, replay_one

from cudeform.gpu.cuda import device as module
from cudeform.gpu.cuda.device import CupyDevice


def test_what_is_known_of_the_device(cupy: FakeCupy) -> None:
    device = CupyDevice(1, 99)
    assert (device.compute_capability, device.multiprocessors) == (90, 132)
    assert device.free_bytes() == 1000
    assert kinds(cupy) == ["enter", "context", "exit"]
    assert device.allocate(10).pointer == 512


def test_a_context_is_made_once_in_each_thread(cupy: FakeCupy) -> None:
    """The driver launches only where there is one, and nobody else may have made it."""

    def run() -> None:
        for index in (0, 0, 1):
            replay_one(CupyDevice(index, 0), ZERO, [16])

    for _ in range(2):
        thread = Thread(target=run)
        thread.start()
        thread.join()
    assert kinds(cupy).count("context") == 4


def test_cupy_is_looked_for_again_when_it_is_another(
    cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.usable_cupy() is cupy
    other = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", other)
    assert module.usable_cupy() is other
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(module.GpuUnavailableError):
        module.usable_cupy()
