"""The promises to users of JAX, by the same tests on the CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, SAME, build
from support import jaxcpu
from support.jaxcpu import function_of, jax, jnp, loss_of, operands

import cudeform
from cudeform import engine

CASE = build(
    "devices", channels=8, groups=2, out_channels=4, offset_groups=2, size=(9, 7), padding=SAME
)
TOLERANCES = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-4, "float64": 1e-10}

bridges = pytest.mark.parametrize("bridge", ["buffer", "ffi"])


@pytest.fixture(autouse=True, params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The device on which a test runs."""
    if request.param == "cuda" and not jaxcpu.HAS_GPU:
        pytest.skip("needs a GPU, CuPy and JAX with CUDA")
    device = jax.devices(request.param)[0]
    with jax.default_device(device):
        yield device


def assert_near(got: Any, wanted: Any, dtype: str) -> None:
    got, wanted = (np.asarray(array).astype("float64") for array in (got, wanted))
    scale = abs(wanted).max(initial=0.0)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCES[dtype] * scale)


@bridges
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_gradients(dtype: str, bridge: str, device: Any) -> None:
    case = CASE.cast(dtype)

    @jax.jit
    def run(arrays: Any, grad_output: Any) -> Any:
        output, pull = jax.vjp(function_of(case), arrays)
        return output, pull(grad_output)[0]

    with jaxcpu.bridge(bridge):
        output, grads = run(operands(case), jnp.asarray(case.grad_output))
    assert output.devices() == {device}
    assert_near(output, cudeform.deform_conv2d(**case.arguments), dtype)
    wanted = cudeform.deform_conv2d_backward(**case.backward_arguments)._asdict()
    for name, grad in grads.items():
        assert grad.dtype == DTYPES[dtype]
        assert_near(grad, wanted[name], dtype)


@bridges
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_mode_and_the_second_order(dtype: str, bridge: str) -> None:
    case = CASE.cast(dtype)
    rng = np.random.default_rng(0)
    tangents = {n: rng.standard_normal(a.shape).astype(dtype) for n, a in operands(case).items()}

    @jax.jit
    def run(arrays: Any, tangents: Any, grad_output: Any) -> Any:
        output_tangent = jax.jvp(function_of(case), (arrays,), (tangents,))[1]

        def pulled(arrays: Any, grad_output: Any) -> Any:
            return jax.vjp(function_of(case), arrays)[1](grad_output)[0]

        return output_tangent, jax.vjp(pulled, arrays, grad_output)[1](tangents)

    with jaxcpu.bridge(bridge):
        output_tangent, (grads, grad_of_grad_output) = run(
            operands(case),
            jax.tree.map(jnp.asarray, tangents),
            jnp.asarray(case.grad_output),
        )
    given = cudeform.Tangents(**tangents)
    assert_near(output_tangent, cudeform.deform_conv2d_jvp(given, **case.arguments), dtype)
    wanted = cudeform.deform_conv2d_double_backward(given, case.grad_output, **case.arguments)
    assert_near(grad_of_grad_output, wanted.grad_output, dtype)
    for name in ("input", "offset", "weight", "mask"):
        assert_near(grads[name], getattr(wanted, name), dtype)
    assert not np.asarray(grads["bias"]).any()


@bridges
def test_the_engine_sees_the_memory_of_xla(bridge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Large enough that XLA does not copy an array to align or to fuse it.
    case = build("memory", batch=2, channels=16, size=(32, 32), padding=SAME).cast("float32")
    arrays = operands(case)
    seen = {}
    forward = engine.forward

    def watched(given: Any, geometry: Any, options: Any, output: Any, device: Any) -> None:
        seen.update({name: pointer(array) for name, array in given.present().items()})
        seen["output"] = pointer(output)
        forward(given, geometry, options, output, device)

    call = jax.jit(function_of(case))
    with jaxcpu.bridge(bridge):
        compiled = call.lower(arrays).compile()
    monkeypatch.setattr(engine, "forward", watched)
    output = compiled(arrays)
    output.block_until_ready()
    pointers = {name: array.unsafe_buffer_pointer() for name, array in arrays.items()}
    assert seen == pointers | {"output": output.unsafe_buffer_pointer()}


def pointer(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.pointer)


@bridges
def test_twenty_steps_of_descent_in_a_loop(bridge: str) -> None:
    case = CASE.cast("float32")
    arrays, sizes = operands(case), {"padding": case.padding}
    start = np.asarray(arrays["offset"])
    wanted = jnp.asarray(case.grad_output)
    call = function_of(case)

    def step(_: Any, offset: Any) -> Any:
        def loss(offset: Any) -> Any:
            return jnp.sum((call({**arrays, "offset": offset}) - wanted) ** 2)

        return offset - 1e-5 * jax.grad(loss)(offset)

    with jaxcpu.bridge(bridge):
        end = jax.jit(lambda offset: jax.lax.fori_loop(0, 20, step, offset))(arrays["offset"])
    by_hand = {name: np.asarray(array) for name, array in arrays.items()}
    for _ in range(20):
        grad_output = 2 * (cudeform.deform_conv2d(**by_hand, **sizes) - case.grad_output)
        grads = cudeform.deform_conv2d_backward(grad_output, **by_hand, **sizes, needs=("offset",))
        by_hand["offset"] = by_hand["offset"] - np.float32(1e-5) * grads.offset
    assert abs(by_hand["offset"] - start).max() > 1e-3  # far above the rounding error
    assert_near(np.asarray(end) - start, by_hand["offset"] - start, "float32")


@pytest.mark.parametrize("mapped", [("input",), ("weight", "bias"), jaxcpu.OPERANDS])
def test_vmap(mapped: tuple[str, ...]) -> None:
    case = CASE.cast("float32")
    arrays = operands(case)
    axes = {name: 0 if name in mapped else None for name in arrays}
    for name in mapped:
        arrays[name] = jnp.stack([arrays[name], 0.9 * arrays[name]])
    grads = jax.jit(jax.vmap(jax.grad(loss_of(case)), (axes,)))(arrays)
    for at in range(2):
        one = {name: array[at] if name in mapped else array for name, array in arrays.items()}
        for name, wanted in jax.grad(loss_of(case))(one).items():
            assert_near(grads[name][at], wanted, "float32")


@bridges
def test_empty_batch(bridge: str) -> None:
    case = build("nothing", batch=0).cast("float32")
    with jaxcpu.bridge(bridge):
        grads = jax.jit(jax.grad(loss_of(case)))(operands(case))
    assert not np.asarray(grads["weight"]).any()
    assert grads["input"].shape == case.input.shape


def test_the_same_gradients_run_after_run() -> None:
    case = CASE.cast("float32")
    with cudeform.options(deterministic=True):
        grad = jax.jit(jax.grad(loss_of(case)))
        first = jax.tree.map(np.asarray, grad(operands(case)))
    for _ in range(5):
        for name, array in grad(operands(case)).items():
            np.testing.assert_array_equal(array, first[name])
