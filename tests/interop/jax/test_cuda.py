"""What the JAX door does for a GPU, run with the GPU's kernels on the host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import named
from checks import needs_compiler
from hostcuda import HostDevice
from support import jaxcpu
from support.jaxcpu import function_of, jax, on_jax, operands

import cudeform
from cudeform import engine
from cudeform.geometry import geometry_of
from cudeform.interop.jax import cuda as jax_cuda
from cudeform.interop.jax.call_spec import TANGENT, Task, shapes_of

pytestmark = needs_compiler

CASE = named("torchvision, offset normal").cast("float32")
OPERANDS = jaxcpu.OPERANDS
TANGENTS = tuple(TANGENT + name for name in OPERANDS)
STREAM, INDEX = 77, 3


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """The device that the engine runs on."""
    host = HostDevice()

    def gpu_device(index: int, stream: int) -> HostDevice:
        host.asked = index, stream
        return host

    monkeypatch.setattr(engine, "gpu_device", gpu_device)
    return host


def task(operation: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Task:
    case = CASE
    shapes = {f"{name}": getattr(case, name).shape for name in OPERANDS}
    sizes = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}
    geometry = geometry_of(**shapes, **sizes)
    options = cudeform.Options()
    return Task(operation, geometry, options, "float32", inputs, outputs, "buffer")


TASKS = {
    "forward": (OPERANDS, ("output",)),
    "backward": ((*OPERANDS, "grad_output"), OPERANDS),
    "jvp": ((*OPERANDS, *TANGENTS), ("output",)),
    "double_backward": (
        (*OPERANDS, "grad_output", *TANGENTS),
        ("grad_output", "input", "offset", "weight", "mask"),
    ),
}


class Buffer:
    """What buffer_callback hands over on a GPU."""

    def __init__(self, array: Any) -> None:
        self.__cuda_array_interface__ = {"data": (array.pointer, False)}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, INDEX


@pytest.mark.parametrize("operation", TASKS)
def test_a_callback_queues_the_task_in_the_memory_of_xla(
    operation: str, device: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    jax_cuda.workspace_bytes.cache_clear()
    a_task = task(operation, *TASKS[operation])
    nbytes = jax_cuda.workspace_bytes(a_task)
    assert device.log == []  # a rehearsal runs nothing
    rng = np.random.default_rng(0)
    in_shapes, out_shapes = shapes_of(a_task)
    arrays = {
        name: getattr(CASE, name, rng.standard_normal(shape)).astype("float32")
        for name, shape in zip(a_task.inputs, in_shapes, strict=True)
    }
    inputs = [device.put(array) for array in arrays.values()]
    outputs = [device.empty(shape, "float32") for shape in out_shapes]
    workspace = device.allocate(nbytes)
    monkeypatch.setattr(device, "allocate", None)  # nothing is allocated outside of XLA
    results = [Buffer(array) for array in (*outputs, workspace)]
    context = SimpleNamespace(stream=STREAM)
    jax_cuda.callback(a_task)(context, results, *map(Buffer, inputs))
    assert device.asked == (INDEX, STREAM)
    for name, got, wanted in zip(a_task.outputs, outputs, by_numpy(a_task, arrays), strict=True):
        np.testing.assert_allclose(device.read(got), wanted, rtol=2e-4, atol=2e-4, err_msg=name)


def by_numpy(a_task: Task, arrays: dict[str, Any]) -> list[Any]:
    """The results of a task on NumPy arrays."""
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
    given = {name: arrays[name] for name in OPERANDS} | sizes
    if a_task.operation == "forward":
        return [cudeform.deform_conv2d(**given)]
    if a_task.operation == "backward":
        return list(cudeform.deform_conv2d_backward(arrays["grad_output"], **given))
    tangents = cudeform.Tangents(*(arrays[name] for name in TANGENTS))
    if a_task.operation == "jvp":
        return [cudeform.deform_conv2d_jvp(tangents, **given)]
    grad_output = arrays["grad_output"]
    return list(cudeform.deform_conv2d_double_backward(tangents, grad_output, **given))


@pytest.mark.parametrize(
    ("bridge", "target"),
    [("buffer", "xla_buffer_python_gpu_callback"), ("ffi", "cudeform_deform_conv2d")],
)
@pytest.mark.usefixtures("device")
def test_a_program_for_cuda_has_workspace_among_its_results(bridge: str, target: str) -> None:
    jax_cuda.workspace_bytes.cache_clear()
    with jaxcpu.bridge(bridge):
        traced = jax.jit(function_of(CASE)).trace(operands(CASE))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    nbytes = jax_cuda.workspace_bytes(task("forward", *TASKS["forward"]))
    (line,) = [line for line in text.splitlines() if target in line]
    assert f"tensor<{nbytes}xui8>" in line


def test_too_little_workspace_is_an_error() -> None:
    arena = jax_cuda.Arena(0, 1000)
    assert arena.take(100).pointer == 0
    assert arena.take(100).pointer == 256
    with pytest.raises(RuntimeError, match="more workspace than"):
        arena.take(1000)


def test_without_cupy_the_error_says_what_is_missing() -> None:
    traced = jax.jit(function_of(on_jax(CASE))).trace(operands(CASE))
    jax_cuda.workspace_bytes.cache_clear()
    if engine_has_gpu():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="CuPy"):
        traced.lower(lowering_platforms=("cuda",))


def engine_has_gpu() -> bool:
    from cudeform.gpu.cuda.device import device_count

    return device_count() > 0
