"""Calls from JAX to a GPU, with the GPU's kernels run on the host."""

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
from cudeform.interop.jax.call_spec import OPERANDS, Argument, CallSpec, engine_call

pytestmark = needs_compiler

CASE = named("torchvision, offset normal").cast("float32")
PRIMALS = tuple(Argument("primal", name) for name in OPERANDS)
TANGENTS = tuple(Argument("tangent", name) for name in OPERANDS)
GRAD_OUTPUT = Argument("primal", "grad_output")
STREAM, GPU = 77, 3

OPERATIONS = {
    "forward": (PRIMALS, ("output",)),
    "backward": ((*PRIMALS, GRAD_OUTPUT), OPERANDS),
    "jvp": ((*PRIMALS, *TANGENTS), ("output",)),
    "double_backward": (
        (*PRIMALS, GRAD_OUTPUT, *TANGENTS),
        ("grad_output", "input", "offset", "weight", "mask"),
    ),
}


class Gpus:
    """Stands for the engine's GPUs: host devices by number, made at first use."""

    def __init__(self) -> None:
        self.devices: dict[int, HostDevice] = {}
        self.requests: list[tuple[int, int]] = []

    def device(self, index: int, stream: int, allocate: Any = None, *, free_bytes: int) -> Any:
        self.requests.append((index, stream))
        device = self.devices.setdefault(index, HostDevice())
        device.free_bytes = lambda: free_bytes
        if allocate is not None:
            device.allocate = allocate
        return device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    gpus = Gpus()
    monkeypatch.setattr(engine, "gpu_device", gpus.device)
    jax_cuda.workspace_bytes.cache_clear()
    return gpus


def spec_of(operation: str) -> CallSpec:
    shapes = {name: getattr(CASE, name).shape for name in OPERANDS}
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
    geometry = geometry_of(**shapes, **sizes)
    inputs, outputs = OPERATIONS[operation]
    options = cudeform.Options()
    call = "deform_conv2d", operation, geometry, options
    return CallSpec(*call, "float32", "float32", inputs, outputs, "buffer")


class Buffer:
    """A buffer as ``buffer_callback`` passes it on a GPU."""

    def __init__(self, pointer: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {"data": (pointer, False), "shape": shape}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, GPU


def buffer_of(array: Any) -> Buffer:
    return Buffer(array.pointer, array.shape)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_callback_runs_a_call_in_the_memory_of_xla(operation: str, gpus: Gpus) -> None:
    spec = spec_of(operation)
    (nbytes,) = jax_cuda.workspace(spec, [GPU]).shape
    host = gpus.devices[GPU]
    assert host.log == []  # computing the workspace runs no kernel
    rng = np.random.default_rng(0)
    arrays = {
        argument: rng.standard_normal(shape).astype("float32")
        if argument.role == "tangent"
        else getattr(CASE, argument.name).astype("float32")
        for argument, shape in zip(spec.inputs, spec.input_shapes(), strict=True)
    }
    inputs = [host.put(array) for array in arrays.values()]
    outputs = [host.empty(shape, "float32") for shape in spec.output_shapes()]
    memory = host.allocate(nbytes)
    allocated = host.peak_bytes
    block = Buffer(memory.pointer, (nbytes,))
    jax_cuda.callback(spec)(
        SimpleNamespace(stream=STREAM), [*map(buffer_of, outputs), block], *map(buffer_of, inputs)
    )
    assert gpus.requests[-1] == (GPU, STREAM)
    assert host.peak_bytes == allocated  # the engine allocates no memory outside XLA
    for name, got, wanted in zip(spec.outputs, outputs, by_numpy(spec, arrays), strict=True):
        np.testing.assert_allclose(host.read(got), wanted, rtol=2e-4, atol=2e-4, err_msg=name)


def by_numpy(spec: CallSpec, arrays: dict[Argument, Any]) -> list[Any]:
    """The results of a call on NumPy arrays."""
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
    given = {argument.name: arrays[argument] for argument in PRIMALS} | sizes
    if spec.operation == "forward":
        return [cudeform.deform_conv2d(**given)]
    if spec.operation == "backward":
        return list(cudeform.deform_conv2d_backward(arrays[GRAD_OUTPUT], **given))
    tangents = cudeform.Tangents(*(arrays[argument] for argument in TANGENTS))
    if spec.operation == "jvp":
        return [cudeform.deform_conv2d_jvp(tangents, **given)]
    grad_output = arrays[GRAD_OUTPUT]
    return list(cudeform.deform_conv2d_double_backward(tangents, grad_output, **given))


@pytest.mark.parametrize(
    ("bridge", "target"),
    [("buffer", "xla_buffer_python_gpu_callback"), ("ffi", "cudeform_deform_conv2d")],
)
def test_a_program_for_cuda_has_workspace_among_its_results(
    bridge: str, target: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = SimpleNamespace(local_hardware_id=GPU)
    monkeypatch.setattr(jax, "local_devices", lambda backend: [local])
    with jaxcpu.bridge(bridge):
        traced = jax.jit(function_of(CASE)).trace(operands(CASE))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    (nbytes,) = jax_cuda.workspace(spec_of("forward"), [GPU]).shape
    (line,) = [line for line in text.splitlines() if target in line]
    assert f"tensor<{nbytes}xui8>" in line
    assert gpus.requests[0] == (GPU, 0)


def test_only_gpus_of_this_process_are_selected() -> None:
    def gpu(number: int, process: int) -> Any:
        return SimpleNamespace(platform="gpu", process_index=process, local_hardware_id=number)

    assert jax_cuda.local_gpus("deform_conv3d", [gpu(5, 0), gpu(2, 0), gpu(0, 1)]) == (2, 5)


def test_the_workspace_is_large_enough_for_each_gpu_that_may_run(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*arguments: Any, device: HostDevice) -> int:
        return 1000 * device.multiprocessors

    monkeypatch.setattr(engine, "workspace_bytes", planned)
    gpus.devices = {2: HostDevice(multiprocessors=9), 5: HostDevice(multiprocessors=7)}
    (nbytes,) = jax_cuda.workspace(spec_of("forward"), [2, 5]).shape
    assert nbytes == 9000 + jax_cuda.ALIGNMENT
    assert gpus.requests == [(2, 0), (5, 0)]


@pytest.mark.usefixtures("gpus")
def test_too_little_workspace_is_an_error() -> None:
    call = engine_call(spec_of("backward"))
    wanted = jax_cuda.workspace_bytes(call.spec, GPU)
    addresses = [256] * 6, [256] * 5
    block = jax_cuda.Block(256, wanted - 1)
    with pytest.raises(RuntimeError, match=rf"needs a workspace of {wanted} bytes, but the progr"):
        jax_cuda.run(call, *addresses, block, STREAM, GPU)


def test_a_block_is_aligned() -> None:
    block = jax_cuda.Block(1, 1000)
    assert block.allocate(745) == (256, 745)
    with pytest.raises(RuntimeError, match="lowered for one that needs 744; lower it where"):
        block.allocate(746)


def test_lowering_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if engine_has_gpu():
        pytest.skip("this machine has a GPU")
    traced = jax.jit(function_of(on_jax(CASE))).trace(operands(CASE))
    with pytest.raises(RuntimeError, match="for CUDA only on a machine where JAX has a GPU"):
        traced.lower(lowering_platforms=("cuda",))
    jax_cuda.workspace_bytes.cache_clear()
    monkeypatch.setattr(jax_cuda, "local_gpus", lambda operator, devices: (0,))
    with pytest.raises(RuntimeError, match="CuPy"):
        traced.lower(lowering_platforms=("cuda",))


def engine_has_gpu() -> bool:
    from cudeform.gpu.cuda.device import device_count

    return device_count() > 0
