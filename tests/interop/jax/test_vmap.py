"""vmap over any mix of operands gives the results of a loop."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import build
from support import jaxcpu
from support.jaxcpu import OPERANDS, function_of, jax, jnp, operands

import cudeform
from cudeform import engine

EXAMPLES = 3
CASE = build(
    "vmap",
    batch=2,
    channels=4,
    size=(4, 3),
    out_channels=2,
    kernel=(2, 2),
    groups=2,
    offset_groups=2,
    padding=((1, 0), (0, 1)),
)
MIXES = [mix for mix in product((False, True), repeat=len(OPERANDS)) if any(mix)]
mixes = pytest.mark.parametrize(
    "mapped",
    [{n for n, is_mapped in zip(OPERANDS, mix, strict=True) if is_mapped} for mix in MIXES],
    ids=lambda mapped: "+".join(sorted(mapped)),
)


def examples(mapped: set[str], axis: int = 0, case: Any = CASE) -> tuple[Any, Any]:
    """Operands of a case, the mapped ones with an axis of examples, and their ``in_axes``."""
    rng = np.random.default_rng(1)
    arrays = operands(case)
    for name in mapped:
        shape = arrays[name].shape
        each = [arrays[name] + 0.3 * rng.standard_normal(shape) for _ in range(EXAMPLES)]
        arrays[name] = jnp.stack(each, axis)
    return arrays, {name: axis if name in mapped else None for name in arrays}


def looped(function: Any, arrays: Any, axes: Any) -> Any:
    """The expected result of ``vmap``: a loop over the examples."""

    def example(index: int) -> Any:
        return {
            name: array if axes[name] is None else jnp.take(array, index, axes[name])
            for name, array in arrays.items()
        }

    results = [function(example(index)) for index in range(EXAMPLES)]
    return jax.tree.map(lambda *each: jnp.stack(each), *results)


@mixes
def test_output(mapped: set[str]) -> None:
    arrays, axes = examples(mapped)
    call = function_of(CASE)
    got = jax.jit(jax.vmap(call, in_axes=(axes,)))(arrays)
    jaxcpu.assert_close(got, looped(call, arrays, axes))


@mixes
def test_gradients(mapped: set[str]) -> None:
    arrays, axes = examples(mapped)
    grad = jax.grad(lambda arrays: jnp.sin(function_of(CASE)(arrays)).sum())
    got = jax.jit(jax.vmap(grad, in_axes=(axes,)))(arrays)
    jaxcpu.assert_close(got, looped(grad, arrays, axes))


@pytest.mark.parametrize("mapped", [{"input"}, {"weight"}, {"offset", "bias"}, set(OPERANDS)])
def test_second_order(mapped: set[str]) -> None:
    arrays, axes = examples(mapped)

    def product(arrays: Any) -> Any:
        gradient = jax.grad(lambda arrays: jnp.sin(function_of(CASE)(arrays)).sum())
        return jax.jvp(gradient, (arrays,), (arrays,))[1]

    got = jax.jit(jax.vmap(product, in_axes=(axes,)))(arrays)
    jaxcpu.assert_close(got, looped(product, arrays, axes))


@pytest.mark.parametrize("mapped", [{"input"}, {"weight"}, set(OPERANDS)])
def test_gradients_of_a_mapped_call(mapped: set[str]) -> None:
    arrays, axes = examples(mapped)
    call = function_of(CASE)
    got = jax.grad(lambda a: jnp.sin(jax.vmap(call, in_axes=(axes,))(a)).sum())(arrays)
    wanted = jax.grad(lambda a: jnp.sin(looped(call, a, axes)).sum())(arrays)
    jaxcpu.assert_close(got, wanted)


@pytest.mark.parametrize("mapped", [{"offset"}, {"weight"}, set(OPERANDS)])
def test_other_axes(mapped: set[str]) -> None:
    call = function_of(CASE)
    for axis in (1, -1):
        mapped_here = mapped - {"bias"} if axis == 1 else mapped
        arrays, axes = examples(mapped_here, axis)
        got = jax.vmap(call, in_axes=(axes,), out_axes=2)(arrays)
        jaxcpu.assert_close(jnp.moveaxis(got, 2, 0), looped(call, arrays, axes))


@pytest.mark.parametrize("outer", ["input", "weight"])
@pytest.mark.parametrize("inner", ["offset", "weight", "mask"])
def test_nested(outer: str, inner: str) -> None:
    rng = np.random.default_rng(2)
    arrays = operands(CASE)
    for name in (inner, outer):
        shape = (3, *arrays[name].shape)
        arrays[name] = jnp.asarray(arrays[name] + 0.3 * rng.standard_normal(shape))
    in_axes = [{n: 0 if n == name else None for n in arrays} for name in (outer, inner)]
    call = function_of(CASE)
    got = jax.vmap(jax.vmap(call, (in_axes[1],)), (in_axes[0],))(arrays)
    wanted = looped(lambda a: looped(call, a, in_axes[1]), arrays, in_axes[0])
    jaxcpu.assert_close(got, wanted)


def test_no_mask_and_no_bias() -> None:
    case = build("vmap, bare", mask=False, bias=False)
    for mapped in ({"input"}, {"weight"}):
        arrays, axes = examples(mapped, case=case)
        grad = jax.grad(lambda arrays: jnp.sin(function_of(case)(arrays)).sum())
        jaxcpu.assert_close(jax.vmap(grad, (axes,))(arrays), looped(grad, arrays, axes))


@pytest.mark.parametrize("name", ["input", "weight"])
def test_no_examples(name: str) -> None:
    arrays = operands(CASE)
    arrays[name] = jnp.zeros((0, *arrays[name].shape))
    axes = {n: 0 if n == name else None for n in arrays}
    output = jax.vmap(function_of(CASE), (axes,))(arrays)
    assert output.shape == (0, *CASE.grad_output.shape)


def test_shared_filters_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = engine.forward

    def watched(given: Any, *rest: Any) -> None:
        seen.append({name: array.shape for name, array in given.present().items()})
        forward(given, *rest)

    monkeypatch.setattr(engine, "forward", watched)
    arrays, axes = examples({"input", "offset"})
    jax.block_until_ready(jax.vmap(function_of(CASE), (axes,))(arrays))
    assert seen[-1]["weight"] == CASE.weight.shape
    assert seen[-1]["input"] == (EXAMPLES * 2, *CASE.input.shape[1:])
    assert len(seen) == 1


def test_vmap_of_the_gradient_function() -> None:
    arrays, axes = examples({"input", "mask"})
    grad_output = jnp.asarray(CASE.grad_output)

    def call(arrays: Any) -> Any:
        sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
        return tuple(cudeform.deform_conv2d_backward(grad_output, **arrays, **sizes))

    jaxcpu.assert_close(jax.vmap(call, (axes,))(arrays), looped(call, arrays, axes))
