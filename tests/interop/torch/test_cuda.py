"""What the torch adapter passes to the GPU engine, with stand-ins for torch's CUDA."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from support.torchcases import NAMES, quiet, tensors, torch

from cudeform import engine
from cudeform.arrays import DeviceArray, Gradients
from cudeform.interop.torch import views
from cudeform.options import Options

pytestmark = quiet


class OnDevice:
    """A tensor that says it is on the third GPU."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.device = SimpleNamespace(index=2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of torch and of the engine."""
    happened: list[Any] = []

    @contextmanager
    def guard(index: int) -> Iterator[None]:
        happened.append(f"enter {index}")
        yield
        happened.append(f"leave {index}")

    monkeypatch.setattr(torch.cuda, "device", guard)
    streams = {2: SimpleNamespace(cuda_stream=77)}
    monkeypatch.setattr(torch.cuda, "current_stream", streams.__getitem__)
    monkeypatch.setattr(engine, "gpu_device", lambda *args, out_of_memory: (*args, out_of_memory))
    return happened


def test_a_call_gets_addresses_the_stream_and_memory_of_torch(events: list[Any]) -> None:
    operands = tuple(map(OnDevice, tensors("cpu")))
    grad_output = torch.empty(2, 3, 4).transpose(0, 2)
    grads = Gradients(offset=torch.empty(4, 3, 2))

    def run(*args: Any, device: Any) -> None:
        events.append((args, device))

    views.run_engine_on_gpu(run, operands, None, Options(), grad_output, grads)
    before, (args, device), after = events
    assert (before, after) == ("enter 2", "leave 2")
    assert device == (2, 77, views.TorchMemory, (torch.cuda.OutOfMemoryError,))
    given, _, _, read, written = args
    for name, operand in zip(NAMES, operands, strict=True):
        shape, strides = tuple(operand.shape), operand.stride()
        wanted = DeviceArray(operand.data_ptr(), shape, strides, "float64")
        assert getattr(given, name) == wanted
    assert read == DeviceArray(grad_output.data_ptr(), (4, 3, 2), (1, 4, 12), "float32")
    assert written.offset == DeviceArray(grads.offset.data_ptr(), (4, 3, 2), (6, 2, 1), "float32")


@pytest.mark.parametrize("several", [False, True])
def test_channels_last_results_are_copies_of_contiguous_ones(
    events: list[Any], several: bool
) -> None:
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    result = torch.empty_like(values, memory_format=torch.channels_last)

    def run(*args: Any, device: Any) -> None:
        written = args[-1].input if several else args[-1]
        assert written.strides == (24, 12, 4, 1)
        ctypes.memmove(written.pointer, values.data_ptr(), values.nbytes)

    operands = tuple(map(OnDevice, tensors("cpu")))
    results = Gradients(input=result) if several else result
    views.run_engine_on_gpu(run, operands, None, Options(), results)
    assert torch.equal(result, values)


@pytest.mark.parametrize("option", [False, True])
@pytest.mark.parametrize("flag", [False, True])
def test_deterministic_algorithms_are_asked_for_by_either(
    events: list[Any], flag: bool, option: bool
) -> None:
    chosen: list[bool] = []

    def run(*args: Any, device: Any) -> None:
        chosen.append(args[2].deterministic)

    torch.use_deterministic_algorithms(flag)
    try:
        operands = tuple(map(OnDevice, tensors("cpu")))
        options = Options(deterministic=option)
        views.run_engine_on_gpu(run, operands, None, options, torch.empty(1))
    finally:
        torch.use_deterministic_algorithms(False)
    assert chosen == [flag or option]
