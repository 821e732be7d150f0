"""JAX arrays: the values of the NumPy engine, without copies, traced once, refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from importlib import reload
from pathlib import Path
from typing import Any

import jaxcpu
import numpy as np
import pytest
from cases import CASES, DTYPES, build, named
from jaxcpu import function_of, jax, jnp, on_jax, operands

import cudeform
from cudeform import engine

CASE = named("torchvision, offset half")
SAME = ((1, 1), (1, 1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_output_and_gradients_are_those_of_numpy_arrays(case: Any) -> None:
    ours = on_jax(case)
    output = cudeform.deform_conv2d(**ours.arguments)
    grads = cudeform.deform_conv2d_backward(**ours.backward_arguments)
    assert isinstance(output, jax.Array)
    np.testing.assert_array_equal(output, cudeform.deform_conv2d(**case.arguments))
    for ours_, wanted in zip(
        grads, cudeform.deform_conv2d_backward(**case.backward_arguments), strict=True
    ):
        assert (ours_ is None) == (wanted is None)
        np.testing.assert_array_equal(ours_, wanted)


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_under_jit(dtype: str, bridge: str) -> None:
    case = CASE.cast(dtype)
    with jaxcpu.bridge(bridge):
        output = jax.jit(function_of(case))(operands(case))
    assert output.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(output, cudeform.deform_conv2d(**case.arguments))


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
@pytest.mark.parametrize(
    "name", ["torchvision, batch 0", "no input channels", "no output channels"]
)
def test_empty_arrays(name: str, bridge: str) -> None:
    case = named(name)
    grad = jax.jit(jax.grad(lambda arrays: function_of(case)(arrays).sum()))
    with jaxcpu.bridge(bridge):
        grads = grad(operands(case))
    ones = np.ones_like(case.grad_output)
    wanted = cudeform.deform_conv2d_backward(ones, **case.arguments)._asdict()
    for key, array in grads.items():
        np.testing.assert_array_equal(array, wanted[key])


def test_forward_mode_and_second_order_functions_are_those_of_numpy_arrays() -> None:
    case = named("torchvision, offset normal")
    rng = np.random.default_rng(0)
    arrays = {name: np.asarray(array) for name, array in operands(case).items()}
    moves = {name: rng.standard_normal(array.shape) for name, array in arrays.items()}
    for call, extra in (
        (cudeform.deform_conv2d_jvp, ()),
        (cudeform.deform_conv2d_double_backward, (case.grad_output,)),
    ):
        sizes = (case.stride, case.padding, case.dilation)
        wanted = call(*_second(cudeform.Gradients(**moves), extra, case.arguments, sizes))
        ours = jax.tree.map(jnp.asarray, (cudeform.Gradients(**moves), extra))
        got = call(*_second(*ours, on_jax(case).arguments, sizes))
        jaxcpu.assert_close(tuple(got), tuple(wanted))


def _second(tangents: Any, extra: Any, a: Any, sizes: Any) -> tuple[Any, ...]:
    return (tangents, *extra, a["input"], a["offset"], a["weight"], a["bias"], *sizes, a["mask"])


def test_equal_calls_are_compiled_once() -> None:
    traces = []
    call = function_of(CASE)

    def counted(arrays: Any) -> Any:
        traces.append(1)
        return call(arrays)

    jitted, eager = jax.jit(counted), counted
    arrays = operands(CASE)
    jax.block_until_ready((jitted(arrays), eager(arrays)))
    traces.clear()
    with _count_compilations() as compilations:
        for _ in range(3):
            jax.block_until_ready((jitted(arrays), eager(arrays)))
    assert compilations == []
    assert len(traces) == 3  # of the eager calls


class _count_compilations(list[str]):
    def __enter__(self) -> _count_compilations:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *error: object) -> None:
        self._listen = lambda *args, **more: None

    def _listen(self, event: str, seconds: float, **more: Any) -> None:
        if "backend_compile" in event:
            self.append(event)


def test_a_new_shape_is_compiled() -> None:
    # What the test above counts is counted.
    with _count_compilations() as compilations:
        case = build("never seen", size=(7, 13))
        jax.block_until_ready(function_of(case)(operands(case)))
    assert compilations


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": (2, 2, 3, 2)}, ValueError, r"^weight must have shape \(O, C/groups, KH, KW\)"),
        ({"offset": (33, 5, 2, 2)}, ValueError, r"^offset must have shape"),
        ({"mask": (33, 18, 9, 9)}, ValueError, r"^mask must have shape .*got \(33, 18, 9, 9\)"),
        ({"bias": (3,)}, ValueError, r"^bias must have shape \(O,\) = \(2,\), got \(3,\)"),
    ],
)
def test_wrong_shapes_are_refused_while_tracing(
    change: Any, error: type[Exception], message: str
) -> None:
    case = named("torchvision, batch 33")
    shapes = {name: array.shape for name, array in operands(case).items()} | change
    arrays = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    with pytest.raises(error, match=message):
        jax.eval_shape(function_of(case), arrays)


def test_a_wrong_gradient_or_tangent_is_refused_while_tracing() -> None:
    arrays = operands(CASE)
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
    wrong = jax.ShapeDtypeStruct((1, 2, 3, 4), "float64")
    tangents = cudeform.Gradients(mask=wrong)
    for call, message in (
        (cudeform.deform_conv2d_backward, r"^grad_output must have shape .*got \(1, 2, 3, 4\)"),
        (cudeform.deform_conv2d_jvp, r"^tangent of mask must have the shape of mask, .*got"),
    ):
        given = wrong if call is cudeform.deform_conv2d_backward else tangents
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda g, a, call=call: call(g, **a, **sizes), given, arrays)


def test_wrong_dtypes_are_refused_while_tracing() -> None:
    arrays = operands(CASE)
    arrays["mask"] = arrays["mask"].astype("float32")
    with pytest.raises(
        TypeError, match=r"^mask must have the dtype of input, float64, got float32"
    ):
        jax.jit(function_of(CASE)).lower(arrays)
    with pytest.raises(TypeError, match=r"^input must have a dtype among .*, got int64"):
        jax.eval_shape(function_of(CASE), {n: a.astype("int64") for n, a in arrays.items()})


def test_arrays_of_another_library_are_refused() -> None:
    arrays = operands(CASE) | {"weight": CASE.weight}
    message = r"^weight must be an array of the same library as input, jax, got an array of numpy"
    for call in (function_of(CASE), jax.jit(lambda _: function_of(CASE)(arrays))):
        with pytest.raises(TypeError, match=message):
            call(arrays)


def test_traced_and_concrete_arrays_may_meet() -> None:
    arrays = operands(CASE)
    weight = arrays.pop("weight")
    output = jax.jit(lambda a: function_of(CASE)({**a, "weight": weight}))(arrays)
    np.testing.assert_array_equal(output, cudeform.deform_conv2d(**CASE.arguments))


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
def test_options_are_those_in_force_while_tracing(
    bridge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    backward = engine.backward

    def watched(given: Any, geometry: Any, options: Any, *rest: Any) -> None:
        seen.append(options.boundary_grad)
        backward(given, geometry, options, *rest)

    monkeypatch.setattr(engine, "backward", watched)
    call = function_of(CASE)
    grad = jax.jit(jax.grad(lambda arrays: call(arrays).sum()))
    with jaxcpu.bridge(bridge):
        with cudeform.options(boundary_grad="mmcv"):
            jax.block_until_ready(grad(operands(CASE)))
        jax.block_until_ready(grad(operands(CASE)))
        assert seen == ["mmcv", "mmcv"]
        jax.block_until_ready(jax.grad(lambda arrays: call(arrays).sum())(operands(CASE)))
    assert seen[2:] == ["torchvision"]


def test_a_jax_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from cudeform.interop.jax import minimum

    monkeypatch.setattr(jax, "__version_info__", (0, 6, 2))
    monkeypatch.setattr(jax, "__version__", "0.6.2")
    with pytest.raises(ImportError, match=r"jax 0\.7\.0 or newer, this is 0\.6\.2; pip install"):
        reload(minimum)


def test_a_call_takes_the_bridge_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    from cudeform.interop.jax import ffi

    calls = []
    run = ffi._run_on_cpu

    def watched(*arguments: Any) -> None:
        calls.append(1)
        run(*arguments)

    monkeypatch.setattr(ffi, "_run_on_cpu", watched)
    for bridge in ("buffer", "ffi", "buffer"):
        calls.clear()
        with jaxcpu.bridge(bridge):
            jax.block_until_ready(function_of(CASE)(operands(CASE)))
        assert len(calls) == (bridge == "ffi")


def test_an_unknown_bridge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bridge must be one of .*'tcp'"), jaxcpu.bridge("tcp"):
        pass


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
def test_an_error_of_the_engine_is_an_error_of_jax(
    bridge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(engine, "forward", broken)
    with jaxcpu.bridge(bridge), pytest.raises(jax.errors.JaxRuntimeError, match="no room"):
        jax.jit(function_of(CASE))(operands(CASE)).block_until_ready()


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
def test_threads(bridge: str) -> None:
    call = jax.jit(function_of(CASE))
    arrays = operands(CASE)
    with jaxcpu.bridge(bridge):
        wanted = np.asarray(call(arrays))
    wrong = []

    def work() -> None:
        wrong.extend(1 for _ in range(20) if not np.array_equal(call(arrays), wanted))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_ffi_bridge_can_be_exported() -> None:
    from jax import export

    allowed = [export.DisabledSafetyCheck.custom_call("cudeform_deform_conv2d")]
    with jaxcpu.bridge("ffi"):
        exported = export.export(jax.jit(function_of(CASE)), disabled_checks=allowed)(
            operands(CASE)
        )
    output = exported.call(operands(CASE))
    np.testing.assert_array_equal(output, cudeform.deform_conv2d(**CASE.arguments))


CACHED = """
import sys, jax, jax.numpy as jnp, cudeform
from cudeform.interop.jax import bridge
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
offset, image, weight = jnp.zeros((1, 2, 4, 4)), jnp.ones((1, 1, 4, 4)), jnp.ones((1, 1, 1, 1))
with bridge("ffi"):
    print(float(jax.jit(cudeform.deform_conv2d)(image, offset, weight).sum()))
print(sum("cache_hits" in event for event in hits))
"""


def test_the_ffi_bridge_is_kept_in_the_persistent_cache(tmp_path: Any) -> None:
    def run() -> list[str]:
        command = [sys.executable, "-c", CACHED, str(tmp_path)]
        done = subprocess.run(command, timeout=60, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    total, hits = run()
    assert (total, hits) == ("16.0", "0")
    total, hits = run()
    assert total == "16.0"
    assert int(hits) > 0


def test_scan_and_checkpoint() -> None:
    case = build("scan", channels=3, out_channels=3, padding=SAME, bias=False)
    arrays = operands(case)

    def looped(arrays: Any, steps: int = 4) -> Any:
        def step(image: Any, _: Any) -> Any:
            return jnp.tanh(function_of(case)({**arrays, "input": image})), None

        return jax.lax.scan(jax.checkpoint(step), arrays["input"], length=steps)[0].sum()

    def unrolled(arrays: Any) -> Any:
        image = arrays["input"]
        for _ in range(4):
            image = jnp.tanh(function_of(case)({**arrays, "input": image}))
        return image.sum()

    jaxcpu.assert_close(jax.jit(jax.grad(looped))(arrays), jax.grad(unrolled)(arrays))


def test_the_cost_of_a_call_is_measured(tmp_path: Any) -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "jax_overhead.py"
    command = [sys.executable, str(script), "--calls", "100", "--json", str(tmp_path / "times")]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "times").read_text())
    times = report["microseconds a call"]["without the engine"]
    assert {"bare jit", "jit, buffer bridge", "jit, ffi bridge"} <= times.keys()
    # Far above what is measured on a quiet machine: a busy one must not fail.
    assert min(times["jit, buffer bridge"]) < min(times["bare jit"]) + 200
