"""JAX arrays give the values of NumPy arrays; a call is traced and compiled once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, SAME, build, named
from support import jaxcpu
from support.jaxcpu import function_of, jax, jnp, on_jax, operands

import cudeform
from cudeform import engine

CASE = named("torchvision, offset half")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_output_and_gradients_are_those_of_numpy_arrays(case: Any) -> None:
    ours = on_jax(case)
    output = cudeform.deform_conv2d(**ours.arguments)
    grads = cudeform.deform_conv2d_backward(**ours.backward_arguments)
    assert isinstance(output, jax.Array)
    np.testing.assert_array_equal(output, cudeform.deform_conv2d(**case.arguments))
    wanted = cudeform.deform_conv2d_backward(**case.backward_arguments)
    for got, grad in zip(grads, wanted, strict=True):
        assert (got is None) == (grad is None)
        np.testing.assert_array_equal(got, grad)


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
    tangents = {name: rng.standard_normal(array.shape) for name, array in arrays.items()}
    for call, extra in (
        (cudeform.deform_conv2d_jvp, ()),
        (cudeform.deform_conv2d_double_backward, (case.grad_output,)),
    ):
        sizes = (case.stride, case.padding, case.dilation)
        wanted = call(*_second(cudeform.Tangents(**tangents), extra, case.arguments, sizes))
        ours = jax.tree.map(jnp.asarray, (cudeform.Tangents(**tangents), extra))
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
    # The counter of the test above does count.
    with _count_compilations() as compilations:
        case = build("never seen", size=(7, 13))
        jax.block_until_ready(function_of(case)(operands(case)))
    assert compilations


def test_traced_and_concrete_arrays_in_one_call() -> None:
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
        with cudeform.options(boundary_grad="zero"):
            jax.block_until_ready(grad(operands(CASE)))
        jax.block_until_ready(grad(operands(CASE)))
        assert seen == ["zero", "zero"]
        jax.block_until_ready(jax.grad(lambda arrays: call(arrays).sum())(operands(CASE)))
    assert seen[2:] == ["one_sided"]


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
