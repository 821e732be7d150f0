"""NumPy arrays in a call with JAX arrays are constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import named
from support import jaxcpu
from support.jaxcpu import function_of, jax, jnp, loss_of, operands

import cudeform

CASE = named("torchvision, offset half")
SIZES = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}


def plain(arrays: Any) -> Any:
    return jax.tree.map(np.asarray, arrays)


@pytest.mark.parametrize("name", jaxcpu.OPERANDS)
def test_all_operands_but_one_may_be_constants(name: str) -> None:
    arrays = operands(CASE)
    constants = plain(arrays)
    one = arrays[name]

    def call(one: Any) -> Any:
        return function_of(CASE)(constants | {name: one})

    def loss(one: Any, others: Any = constants) -> Any:
        return loss_of(CASE)({**others, name: one})

    wanted = function_of(CASE)(arrays)
    for way in (call, jax.jit(call)):
        assert isinstance(way(one), jax.Array)
        jaxcpu.assert_close(way(one), wanted)
    jaxcpu.assert_close(jax.vmap(call)(jnp.stack([one] * 2)), jnp.stack([wanted] * 2))
    jaxcpu.assert_close(jax.grad(loss)(one), jax.grad(loss)(one, arrays))
    jaxcpu.assert_close(
        jax.jit(jax.jacfwd(jax.grad(loss)))(one), jax.jacfwd(jax.grad(loss))(one, arrays)
    )


def test_a_constant_may_be_closed_over_in_transformations() -> None:
    arrays = operands(CASE)
    wanted = function_of(CASE)(arrays)

    @jax.checkpoint
    def step(total: Any, image: Any) -> Any:
        return total + function_of(CASE)(plain(arrays) | {"input": image}), None

    images = jnp.stack([arrays["input"]] * 3)
    total, _ = jax.lax.scan(step, jnp.zeros_like(wanted), images)
    jaxcpu.assert_close(total, 3 * wanted)


def test_numpy_arrays_alone_stay_numpy_arrays() -> None:
    constants = plain(operands(CASE))
    output = function_of(CASE)(constants)
    assert type(output) is np.ndarray
    traced = jax.jit(lambda one: one + function_of(CASE)(constants).sum())
    jaxcpu.assert_close(traced(1.0), 1.0 + jnp.sum(output))


def test_gradients_tangents_and_cotangents_may_be_constants() -> None:
    arrays = operands(CASE)
    grad_output = np.asarray(CASE.grad_output)
    tangents = cudeform.Tangents(offset=np.asarray(CASE.offset), input=arrays["input"])

    def all_calls(tangents: Any, grad_output: Any, arrays: Any) -> Any:
        output = cudeform.deform_conv2d_jvp(tangents, **arrays, **SIZES)
        grads = cudeform.deform_conv2d_backward(grad_output, **arrays, **SIZES)
        more = cudeform.deform_conv2d_double_backward(tangents, grad_output, **arrays, **SIZES)
        return output, grads, more

    wanted = all_calls(jax.tree.map(jnp.asarray, tangents), jnp.asarray(grad_output), arrays)
    jaxcpu.assert_close(all_calls(tangents, grad_output, arrays), wanted)
    jaxcpu.assert_close(jax.jit(lambda a: all_calls(tangents, grad_output, a))(arrays), wanted)
    # One JAX array is enough to make the call one of JAX.
    only_tangents = jax.tree.map(jnp.asarray, tangents)
    output = cudeform.deform_conv2d_jvp(only_tangents, **plain(arrays), **SIZES)
    assert isinstance(output, jax.Array)
    jaxcpu.assert_close(output, wanted[0])


@pytest.mark.parametrize("name", ["input", "offset", "mask"])
def test_constants_take_the_dtype_that_jax_gives_them(name: str) -> None:
    with jax.enable_x64(False):
        arrays = operands(CASE)
        mixed = arrays | {name: np.asarray(getattr(CASE, name), "float64")}
        output = function_of(CASE)(mixed)
        assert output.dtype == "float32"
        np.testing.assert_array_equal(output, function_of(CASE)(arrays))
    single = {key: array.astype("float32") for key, array in operands(CASE).items()}
    text = "must have the dtype of input, float"
    with pytest.raises(TypeError, match=text):
        function_of(CASE)(single | {name: mixed[name]})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_dtypes(dtype: str) -> None:
    arrays = operands(CASE.cast(dtype))
    mixed = arrays | {"weight": np.asarray(arrays["weight"])}
    np.testing.assert_array_equal(function_of(CASE)(mixed), function_of(CASE)(arrays))


def test_any_memory() -> None:
    arrays = operands(CASE)
    weight = np.asfortranarray(CASE.weight)[:, :, ::-1][:, :, ::-1]
    weight.setflags(write=False)
    jaxcpu.assert_close(function_of(CASE)(arrays | {"weight": weight}), function_of(CASE)(arrays))
    matrix = np.asarray(CASE.weight).view(np.recarray)
    jaxcpu.assert_close(function_of(CASE)(arrays | {"weight": matrix}), function_of(CASE)(arrays))


def test_a_constant_is_read_when_the_call_is_made() -> None:
    arrays = operands(CASE)
    weight = np.array(CASE.weight)
    wanted, pull_wanted = jax.vjp(function_of(CASE), arrays)

    def call(image: Any) -> Any:
        return function_of(CASE)(arrays | {"input": image, "weight": weight})

    output, pull = jax.vjp(call, arrays["input"])
    weight[:] = np.nan
    jaxcpu.assert_close(output, wanted)
    jaxcpu.assert_close(pull(output)[0], pull_wanted(wanted)[0]["input"])


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        (np.zeros(2, "int32"), "^bias must have a dtype among .*, got int32"),
        (np.zeros(2, ">f8"), "^bias must have a dtype among .*, got >f8"),
        (np.array(["a", "b"]), "^bias must have a dtype among .*, got str"),
        (np.array([None, None]), "^bias must have a dtype among .*, got object"),
        (np.zeros(3), r"^bias must have shape \(O,\)"),
        (np.ma.zeros(2), "^bias must be a plain array, got MaskedArray"),
        ([0.0, 0.0], "^bias must be an array .* got list"),
        (np.float64(0), "^bias must be an array .* got float64"),
    ],
)
def test_what_is_no_constant_is_refused(constant: Any, message: str) -> None:
    arrays = operands(CASE)
    for way in (lambda call: call, jax.jit):
        with pytest.raises((TypeError, ValueError), match=message):
            way(lambda arrays: function_of(CASE)(arrays | {"bias": constant}))(arrays)
