"""``jax.linear_transpose`` of the function and its derivatives, for all linear arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import SAME, build
from support import jaxcpu
from support.jaxcpu import function_of, jax, jnp, operands

import cudeform

SMALL: dict[str, Any] = {"batch": 2, "channels": 4, "size": (4, 5), "kernel": (2, 2)}
CASES = [
    build("jax, groups", **SMALL, groups=2, out_channels=2, offset_groups=2, padding=SAME),
    build("jax, no mask, no bias", **SMALL, mask=False, bias=False, stride=(2, 1)),
    build("jax, no bias", **SMALL, bias=False, dilation=(1, 2), padding=((1, 0), (0, 2))),
]
CASE = CASES[0]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
LINEAR = [
    ("input",),
    ("weight",),
    ("mask",),
    ("bias",),
    ("weight", "bias"),
    ("input", "bias"),
    ("mask", "bias"),
]


def random_like(arrays: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), arrays)


def dot(one: Any, two: Any) -> Any:
    return sum(map(jnp.vdot, jax.tree.leaves(one), jax.tree.leaves(two)))


def check_transpose(function: Callable[[Any], Any], primal: Any) -> Any:
    """Compare with the definition of the transpose; ``function(0)`` may be a constant."""
    zeros = jax.tree.map(jnp.zeros_like, primal)
    constant = function(zeros)
    output = jax.tree.map(jnp.subtract, function(primal), constant)
    cotangents = random_like(output)
    (transposed,) = jax.linear_transpose(function, primal)(cotangents)
    np.testing.assert_allclose(dot(primal, transposed), dot(output, cotangents), rtol=1e-9)
    jaxcpu.assert_close(jax.jit(jax.linear_transpose(function, primal))(cotangents)[0], transposed)
    # Derivatives at any point are those of the linear part.
    jaxcpu.assert_close(jax.vjp(function, primal)[1](cotangents)[0], transposed)
    return transposed


def in_some(case: Any, names: Any) -> tuple[Callable[[Any], Any], Any]:
    """The function of some operands, and these."""
    arrays = operands(case)
    return lambda some: function_of(case)(arrays | some), {name: arrays[name] for name in names}


@pytest.mark.parametrize(
    ("case", "names"),
    [(case, names) for case in CASES for names in LINEAR if operands(case).keys() >= set(names)],
)
def test_the_function(case: Any, names: tuple[str, ...]) -> None:
    check_transpose(*in_some(case, names))


@every
@pytest.mark.parametrize("name", ["input", "weight"])
def test_a_transpose_of_a_transpose(case: Any, name: str) -> None:
    function, primal = in_some(case, [name])
    zeros = jax.tree.map(jnp.zeros_like, primal)
    cotangent = random_like(function(primal))
    transposed = jax.linear_transpose(function, primal)
    (twice,) = jax.linear_transpose(lambda c: transposed(c)[0], cotangent)(primal)
    jaxcpu.assert_close(twice, function(primal) - function(zeros))


@pytest.mark.parametrize("name", ["input", "weight", "mask"])
def test_vmap(name: str) -> None:
    function, primal = in_some(CASE, [name])
    transpose = jax.linear_transpose(function, primal)
    cotangents = random_like(jnp.stack([function(primal)] * 3))
    wanted = jax.tree.map(lambda *a: jnp.stack(a), *[transpose(each) for each in cotangents])
    jaxcpu.assert_close(jax.vmap(transpose)(cotangents), wanted)
    primals = random_like(jax.tree.map(lambda a: jnp.stack([a] * 3), primal))
    of_all = jax.linear_transpose(jax.vmap(function), primals)
    jaxcpu.assert_close(of_all(cotangents)[0], wanted[0])


def test_a_transpose_is_differentiable_in_the_constants() -> None:
    arrays = operands(CASE)
    cotangent = jnp.asarray(CASE.grad_output)

    def by_transpose(constants: Any) -> Any:
        def function(image: Any) -> Any:
            return function_of(CASE)(constants | {"input": image})

        (image,) = jax.linear_transpose(function, arrays["input"])(cotangent)
        return jnp.sin(image).sum()

    def by_backward(constants: Any) -> Any:
        sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
        operands = constants | {"input": arrays["input"]}
        grads = cudeform.deform_conv2d_backward(cotangent, **operands, **sizes, needs=["input"])
        return jnp.sin(grads.input).sum()

    constants = {name: array for name, array in arrays.items() if name != "input"}
    jaxcpu.assert_close(jax.grad(by_transpose)(constants), jax.grad(by_backward)(constants))


def test_scan_checkpoint_and_custom_jvp() -> None:
    function, primal = in_some(CASE, ["input"])

    def summed(primal: Any) -> Any:
        first = jnp.zeros_like(function(primal))
        step = jax.checkpoint(function)
        return jax.lax.scan(lambda total, _: (total + step(primal), None), first, length=2)[0]

    check_transpose(summed, primal)

    without_bias, primal = in_some(CASES[2], ["input"])
    custom = jax.custom_jvp(without_bias)
    custom.defjvps(lambda tangent, output, primal: without_bias(tangent))
    grads, wanted = (
        jax.grad(lambda primal, f=f: f(primal).sum())(primal) for f in (custom, without_bias)
    )
    jaxcpu.assert_close(grads, wanted)


@pytest.mark.parametrize(
    ("along", "names"),
    [
        (["offset"], ["input"]),
        (["offset", "mask"], ["weight"]),
        (["input"], ["weight", "bias"]),
        (["input", "bias"], ["mask"]),
    ],
)
def test_forward_mode_in_operands_and_tangents(along: list[str], names: list[str]) -> None:
    arrays = operands(CASE)
    tangents = random_like({name: arrays[name] for name in along})

    def tangent_of_output(some: Any, tangents: Any) -> Any:
        point = {name: (arrays | some)[name] for name in tangents}
        return jax.jvp(
            lambda point: function_of(CASE)(arrays | some | point), (point,), (tangents,)
        )[1]

    some = {name: arrays[name] for name in names if name != "bias"}
    check_transpose(lambda some: tangent_of_output(some, tangents), some)
    check_transpose(lambda tangents: tangent_of_output({}, tangents), tangents)


@pytest.mark.parametrize(
    ("needs", "names"),
    [
        (["input", "weight", "bias", "mask", "offset"], ["grad_output"]),
        (["input"], ["weight"]),
        (["input"], ["grad_output", "input"]),  # this gradient does not depend on the input
        (["weight", "offset"], ["input"]),
        (["weight"], ["mask"]),
    ],
)
def test_backward(needs: list[str], names: list[str]) -> None:
    arrays = {"grad_output": jnp.asarray(CASE.grad_output)} | operands(CASE)
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}

    def function(some: Any) -> Any:
        grads = cudeform.deform_conv2d_backward(**(arrays | some), **sizes, needs=needs)
        return {name: getattr(grads, name) for name in needs}

    check_transpose(function, {name: arrays[name] for name in names})


@pytest.mark.parametrize("along", [["input", "weight"], ["offset"], ["mask", "offset"]])
@pytest.mark.parametrize("needs", [["input", "weight"], ["grad_output", "mask"]])
def test_double_backward(along: list[str], needs: list[str]) -> None:
    arrays = operands(CASE)
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
    cotangents = random_like({name: arrays[name] for name in along})

    def function(grad_output: Any, cotangents: Any) -> Any:
        grads = cudeform.deform_conv2d_double_backward(
            cudeform.Tangents(**cotangents), grad_output, **arrays, **sizes, needs=needs
        )
        return {name: getattr(grads, name) for name in needs}

    grad_output = jnp.asarray(CASE.grad_output)
    check_transpose(lambda cotangents: function(grad_output, cotangents), cotangents)
    check_transpose(lambda g: function(g, cotangents)[needs[1]], grad_output)


def test_the_normal_operator_is_symmetric() -> None:
    arrays = operands(CASE)
    del arrays["bias"]

    def function(image: Any) -> Any:
        return function_of(CASE)(arrays | {"input": image})

    def normal(image: Any) -> Any:
        output, pull = jax.vjp(function, image)
        return pull(output)[0]

    transposed = check_transpose(normal, arrays["input"])
    jaxcpu.assert_close(transposed, normal(random_like(arrays["input"])))


def test_a_batch_on_several_devices() -> None:
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.local_devices(backend="cpu")[:2]), "batch")
    images, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["batch"], []))
    arrays = {
        name: jax.device_put(array, everywhere if name in ("weight", "bias") else images)
        for name, array in operands(CASE).items()
    }
    cotangent = jax.device_put(jnp.asarray(CASE.grad_output), images)
    for name in ("input", "weight"):

        def transpose(arrays: Any, cotangent: Any, name: str = name) -> Any:
            def function(array: Any) -> Any:
                return function_of(CASE)(arrays | {name: array})

            return jax.linear_transpose(function, arrays[name])(cotangent)[0]

        of_name, primal = in_some(CASE, [name])
        wanted = jax.linear_transpose(of_name, primal)(jnp.asarray(CASE.grad_output))[0][name]
        jaxcpu.assert_close(jax.jit(transpose)(arrays, cotangent), wanted)
        specs = {n: each.sharding.spec for n, each in arrays.items()}
        sharded = jax.shard_map(
            transpose, mesh=mesh, in_specs=(specs, images.spec), out_specs=specs[name]
        )
        jaxcpu.assert_close(sharded(arrays, cotangent), wanted)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["offset"], "not linear in offset; it is linear in input, weight or mask"),
        (["input", "weight"], r"not linear in input and weight together;.*jax\.vjp"),
        (["input", "mask", "bias"], "not linear in input and mask together"),
        (["offset", "bias"], "not linear in offset;"),
    ],
)
def test_what_is_not_linear_is_refused(names: list[str], message: str) -> None:
    function, primal = in_some(CASE, names)
    transpose = jax.linear_transpose(function, primal)
    with pytest.raises(ValueError, match=message):
        transpose(jnp.asarray(CASE.grad_output))


def test_a_tangent_beside_its_factor_is_refused() -> None:
    arrays = operands(CASE)

    def function(image_tangent: Any, weight: Any) -> Any:
        return jax.jvp(
            lambda image: function_of(CASE)(arrays | {"input": image, "weight": weight}),
            (arrays["input"],),
            (image_tangent,),
        )[1]

    transpose = jax.linear_transpose(function, arrays["input"], arrays["weight"])
    with pytest.raises(ValueError, match="in weight and the tangent of input together"):
        transpose(jnp.asarray(CASE.grad_output))
