"""Forward and reverse mode of JAX to the second order; higher orders are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import SAME, build, named
from support import jaxcpu
from support.jaxcpu import function_of, jax, jnp, loss_of, operands

import cudeform
from cudeform import engine

from jax import test_util  # isort: skip

# Small, so that finite differences and whole Hessians are cheap.
SMALL: dict[str, Any] = {"batch": 1, "channels": 2, "size": (3, 4), "kernel": (2, 2)}
CASES = [
    build("jax, everything", **SMALL, groups=2, out_channels=2, offset_groups=2, padding=SAME),
    build("jax, no mask, no bias", **SMALL, mask=False, bias=False),
    build("jax, no mask", **SMALL, mask=False, stride=(2, 1), padding=SAME),
    build("jax, no bias", **SMALL, bias=False, dilation=(1, 2)),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check_grads(function: Any, arrays: Any, order: int, modes: Any) -> None:
    # The steps are so small that no sample crosses a pixel, where its slope jumps.
    test_util.check_grads(function, (arrays,), order, modes, eps=1e-6, atol=1e-6, rtol=1e-6)


def tangents_of(arrays: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(a.shape)) for name, a in arrays.items()}


@every
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_finite_differences(case: Any, mode: str) -> None:
    check_grads(function_of(case), operands(case), order=1, modes=[mode])


@pytest.mark.promise("differentiable twice")
@every
def test_finite_differences_of_the_second_order(case: Any) -> None:
    check_grads(loss_of(case), operands(case), order=2, modes=["rev"])


@pytest.mark.parametrize(
    "name", ["torchvision, batch 33", "torchvision, offset half", "torchvision, offset nan"]
)
@pytest.mark.parametrize("boundary_grad", ["one_sided", "zero"])
def test_reverse_mode_is_backward(name: str, boundary_grad: str) -> None:
    case = named(name)
    with cudeform.options(boundary_grad=boundary_grad):
        _, pull = jax.vjp(function_of(case), operands(case))
        (grads,) = pull(jnp.asarray(case.grad_output))
        wanted = cudeform.deform_conv2d_backward(**case.backward_arguments)._asdict()
    assert grads.keys() == {name for name, array in wanted.items() if array is not None}
    for key, grad in grads.items():
        np.testing.assert_array_equal(grad, wanted[key])


@every
def test_all_ways_to_the_second_derivatives_agree(case: Any) -> None:
    # Forward over reverse gives all blocks of the Hessian; the other ways must give the same.
    loss, arrays = loss_of(case), operands(case)
    hessian = jax.jit(jax.jacfwd(jax.grad(loss)))(arrays)
    jaxcpu.assert_close(jax.jit(jax.jacrev(jax.grad(loss)))(arrays), hessian)
    tangents = tangents_of(arrays)

    @jax.jit
    def reverse_over_forward(arrays: Any) -> Any:
        return jax.grad(lambda a: jax.jvp(loss, (a,), (tangents,))[1])(arrays)

    product = jax.jvp(jax.grad(loss), (arrays,), (tangents,))[1]
    jaxcpu.assert_close(reverse_over_forward(arrays), product)


@every
def test_a_hessian_is_the_difference_of_gradients(case: Any) -> None:
    loss, arrays = loss_of(case), operands(case)
    tangents = tangents_of(arrays)
    step = 1e-6
    there, here = (
        jax.grad(loss)(jax.tree.map(lambda a, t, s=sign: a + s * step * t, arrays, tangents))
        for sign in (1, -1)
    )
    differences = jax.tree.map(lambda a, b: (a - b) / (2 * step), there, here)
    product = jax.jvp(jax.grad(loss), (arrays,), (tangents,))[1]
    jaxcpu.assert_close(product, differences, 1e-6)


def test_a_linear_loss_has_no_second_derivatives_by_the_bias() -> None:
    case = CASES[0]
    arrays = operands(case)
    gradient = jax.grad(lambda arrays: function_of(case)(arrays).sum())
    along_all = jax.jvp(gradient, (arrays,), (tangents_of(arrays),))[1]
    assert not np.asarray(along_all["bias"]).any()
    assert np.asarray(along_all["offset"]).any()
    zeros = jax.tree.map(jnp.zeros_like, arrays)
    tangents = zeros | {"bias": jnp.ones_like(arrays["bias"])}
    jaxcpu.assert_close(jax.jvp(gradient, (arrays,), (tangents,))[1], zeros, 0.0)
    along_bias = jax.jvp(
        lambda b: gradient(arrays | {"bias": b}), (arrays["bias"],), (tangents["bias"],)
    )
    jaxcpu.assert_close(along_bias[1], zeros, 0.0)


def test_products_with_the_hessian_are_differentiable_along_their_direction() -> None:
    case = CASES[0]
    loss, arrays = loss_of(case), operands(case)

    def product(tangents: Any) -> Any:
        return jax.jvp(jax.grad(loss), (arrays,), (tangents,))[1]

    tangents, cotangents = tangents_of(arrays), tangents_of(arrays, seed=1)
    _, pull = jax.vjp(product, tangents)
    jaxcpu.assert_close(pull(cotangents)[0], product(cotangents))  # a Hessian is symmetric
    transposed = jax.linear_transpose(lambda t: pull(t)[0], tangents)(cotangents)[0]
    jaxcpu.assert_close(transposed, product(cotangents))


@pytest.mark.parametrize("name", jaxcpu.OPERANDS)
def test_only_requested_gradients_are_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    backward = engine.backward

    def watched(*args: Any) -> None:
        seen.append({key for key, grad in args[4]._asdict().items() if grad is not None})
        backward(*args)

    monkeypatch.setattr(engine, "backward", watched)
    case = CASES[0]
    arrays = operands(case)
    one = arrays.pop(name)
    grad = jax.jit(jax.grad(lambda one: loss_of(case)({**arrays, name: one})))(one)
    grad.block_until_ready()
    assert seen == [{name}]


def test_a_second_gradient_calls_the_engine_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("forward", "jvp", "backward", "double_backward"):
        monkeypatch.setattr(engine, name, _recorded(getattr(engine, name), name, calls))
    case = CASES[0]
    call = function_of(case)

    def penalty(arrays: Any) -> Any:
        # The loss is linear, so the gradient does not need the output.
        grads = jax.grad(lambda image: call({**arrays, "input": image}).sum())(arrays["input"])
        return (grads**2).sum()

    jax.block_until_ready(jax.jit(jax.grad(penalty))(operands(case)))
    assert calls == ["backward", "double_backward"]


def _recorded(function: Any, name: str, calls: list[str]) -> Any:
    def run(*args: Any) -> None:
        calls.append(name)
        function(*args)

    return run


def test_forward_over_forward_is_refused() -> None:
    loss, tangents = loss_of(CASES[0]), tangents_of(operands(CASES[0]))

    def twice(arrays: Any) -> Any:
        return jax.jvp(lambda a: jax.jvp(loss, (a,), (tangents,))[1], (arrays,), (tangents,))

    for call in (twice, jax.jit(twice)):
        with pytest.raises(NotImplementedError, match=r"no forward mode over forward.*hessian"):
            call(operands(CASES[0]))


@pytest.mark.parametrize("first", [["offset", "bias"], ["input", "weight", "mask"], ["bias"]])
def test_forward_over_forward_where_one_direction_at_most_has_the_offset(first: list[str]) -> None:
    call, arrays = function_of(CASES[0]), operands(CASES[0])
    zeros, tangents = jax.tree.map(jnp.zeros_like, arrays), tangents_of(arrays, seed=1)
    one = zeros | {name: tangents[name] for name in first}
    two = tangents | {"offset": zeros["offset"]} if "offset" in first else tangents

    def along(function: Any, tangents: Any) -> Any:
        # Only the tangents given reach JAX: a tangent of zeros is a direction too.
        some = {name: t for name, t in tangents.items() if np.asarray(t).any()}
        return lambda a: jax.jvp(
            lambda s: function(a | s), ({name: a[name] for name in some},), (some,)
        )[1]

    product = jax.jvp(jax.grad(lambda a: call(a).sum()), (arrays,), (one,))[1]
    wanted = sum(jnp.vdot(product[name], two[name]) for name in arrays)
    for function in (along(along(call, one), two), along(along(call, two), one)):
        np.testing.assert_allclose(jax.jit(function)(arrays).sum(), wanted, atol=1e-10)


def test_third_derivatives_are_refused() -> None:
    case = CASES[0]
    arrays = operands(case)

    def loss(image: Any) -> Any:
        return loss_of(case)({**arrays, "input": image})

    def sum_of_gradient(function: Any) -> Any:
        return lambda image: (jax.grad(function)(image) ** 2).sum()

    with pytest.raises(NotImplementedError, match="no third derivatives"):
        jax.grad(sum_of_gradient(sum_of_gradient(loss)))(arrays["input"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_gradients_have_the_dtype_of_their_arguments(dtype: str) -> None:
    case = CASES[0].cast(dtype)
    arrays = operands(case)
    loss = loss_of(case)
    for tree in (jax.grad(loss)(arrays), jax.jvp(jax.grad(loss), (arrays,), (arrays,))[1]):
        assert all(array.dtype == dtype for array in jax.tree.leaves(tree))


def test_gradients_of_sequences_of_calls() -> None:
    # Two layers, the offsets of the second computed from the output of the first.
    case = build("layers", channels=2, out_channels=18, padding=SAME, bias=False, mask=False)
    arrays = operands(case)

    def loss(arrays: Any) -> Any:
        offset = jnp.tanh(function_of(case)(arrays)) * 0.4 + 0.5
        return jnp.sin(function_of(case)({**arrays, "offset": offset})).sum()

    check_grads(loss, arrays, order=1, modes=["fwd", "rev"])
    check_grads(loss, arrays, order=2, modes=["rev"])
