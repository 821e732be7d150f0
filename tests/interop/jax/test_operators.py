"""Every operator on JAX arrays: compiled, differentiated twice, under vmap, and as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.functions import (
    CASES,
    AnyCase,
    every,
    every_slowly,
    functions_of,
    linear,
    shared,
    takes_long,
)
from support.jaxcpu import assert_close, bridge, jax, jnp, on_jax, operands

from cudeform.interop.jax.call_spec import CallSpec
from cudeform.interop.jax.lowering import BRIDGES

from jax import test_util  # isort: skip


def function_of(case: AnyCase) -> Any:
    """The operator of operands by name, with the sizes of a case."""
    return lambda arrays: functions_of(case).forward(**arrays, **case.settings)


@pytest.mark.promise("any array")
@every
def test_gradients_of_a_compiled_call_are_those_of_numpy(case: AnyCase) -> None:
    there = on_jax(case)
    output, pull = jax.vjp(jax.jit(function_of(case)), operands(case))
    assert_close(output, functions_of(case).forward(**case.arguments))
    (grads,) = pull(there.grad_output)
    wanted = functions_of(case).backward(**case.backward_arguments)._asdict()
    assert_close(grads, {name: wanted[name] for name in grads})


@every
def test_a_call_works_where_jit_is_switched_off(case: AnyCase) -> None:
    loss = lambda arrays: function_of(case)(arrays).sum()  # noqa: E731
    wanted = jax.grad(loss)(operands(case))
    with jax.disable_jit():
        assert_close(jax.grad(jax.jit(loss))(operands(case)), wanted)


@pytest.mark.promise("differentiable twice")
@every_slowly
def test_derivatives(case: AnyCase) -> None:
    arrays = operands(case.smooth())
    loss = lambda given: jnp.sum(jnp.sin(function_of(case)(given)))  # noqa: E731
    how = {"eps": 1e-6, "atol": 1e-6, "rtol": 1e-6}
    test_util.check_grads(loss, (arrays,), 1, ["fwd"], **how)
    test_util.check_grads(loss, (arrays,), 2, ["rev"], **how)


@every_slowly
def test_the_hessian_is_that_of_gradients_of_gradients(case: AnyCase) -> None:
    arrays = operands(case)
    names = linear(case)[-2:] if shared(case) else [*arrays][-2:]
    loss = lambda *given: jnp.sum(  # noqa: E731
        jnp.sin(function_of(case)(arrays | dict(zip(names, given, strict=True))))
    )
    given = [arrays[name] for name in names]
    got = jax.jit(jax.hessian(loss, (0, 1)))(*given)
    assert_close(got, jax.jacrev(jax.grad(loss, (0, 1)), (0, 1))(*given))


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, id=f"{case.operator}-{name}")
        for case in CASES
        for name in linear(case)
    ],
)
def test_it_can_be_transposed(case: AnyCase, name: str) -> None:
    arrays = operands(case)
    arrays.pop("bias", None)
    function = lambda array: function_of(case)(arrays | {name: array})  # noqa: E731
    cotangent = jnp.cos(jnp.arange(case.grad_output.size).reshape(case.grad_output.shape))
    (transposed,) = jax.linear_transpose(function, arrays[name])(cotangent)
    assert_close(jax.vjp(function, arrays[name])[1](cotangent)[0], transposed)
    twice = jax.linear_transpose(
        lambda c: jax.linear_transpose(function, arrays[name])(c)[0], cotangent
    )(arrays[name])[0]
    assert_close(twice, function(arrays[name]))


@pytest.mark.parametrize(
    ("case", "mapped"),
    [
        pytest.param(
            case,
            mapped,
            id=f"{case.operator}-{'+'.join(mapped)}",
            marks=takes_long(case),
        )
        for case in CASES
        for mapped in (
            [*case.operands],
            [*case.operands][:1],
            *(([*shared(case)][:1], ["bias", "offset"]) if shared(case) else ()),
        )
    ],
)
def test_vmap_is_a_loop(case: AnyCase, mapped: list[str]) -> None:
    arrays, function = operands(case), function_of(case)
    scaled = [{n: arrays[n] * factor for n in mapped} for factor in (1.0, 0.5)]
    pairs = {name: jnp.stack([each[name] for each in scaled]) for name in mapped}
    for call in (function, jax.grad(lambda given: jnp.sum(jnp.sin(function(given))))):
        got = jax.vmap(lambda some, call=call: call(arrays | some))(pairs)
        for i in range(2):
            assert_close(jax.tree.map(lambda a, i=i: a[i], got), call(arrays | scaled[i]))


@every
@pytest.mark.parametrize("name", BRIDGES)
def test_bridges(case: AnyCase, name: str) -> None:
    with bridge(name):
        got = jax.jit(jax.grad(lambda given: jnp.sum(function_of(case)(given))))(operands(case))
    ones = np.ones_like(case.grad_output)
    wanted = functions_of(case).backward(ones, **case.arguments)._asdict()
    assert_close(got, wanted)


@every
def test_images_stay_on_their_devices(case: AnyCase) -> None:
    if jax.device_count() < 2 or case.batch != 2:
        pytest.skip("needs two devices and two images")
    mesh = jax.make_mesh((2,), ("images",), axis_types=(jax.sharding.AxisType.Auto,))
    copied, spread = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("images")
    specs = {n: copied if n in shared(case) else spread for n in case.operands}
    there = {
        name: jax.device_put(array, jax.sharding.NamedSharding(mesh, specs[name]))
        for name, array in operands(case).items()
    }
    function = jax.jit(jax.value_and_grad(lambda given: jnp.sum(jnp.sin(function_of(case)(given)))))
    assert "all-gather" not in function.lower(there).compile().as_text()
    assert_close(function(there), function(operands(case)))


@every
def test_a_spec_survives_as_text(case: AnyCase) -> None:
    jaxpr = jax.make_jaxpr(function_of(case))(operands(case))
    specs = [e.params["spec"] for e in jaxpr.eqns if "spec" in e.params]
    assert specs
    for spec in specs:
        assert CallSpec.from_text(spec.to_text().encode()) == spec


@every
def test_refusals_name_the_operator_that_was_called(case: AnyCase) -> None:
    arrays = operands(case)
    name = [*arrays][-1]

    def loss(operand: Any) -> Any:
        return jnp.sum(jnp.sin(function_of(case)(arrays | {name: operand})))

    def sum_of_gradient(function: Any) -> Any:
        return lambda operand: (jax.grad(function)(operand) ** 2).sum()

    with pytest.raises(NotImplementedError, match=f"{case.operator} has no third derivatives"):
        jax.grad(sum_of_gradient(sum_of_gradient(loss)))(arrays[name])
    try:
        jax.local_devices(backend="cuda")
    except RuntimeError:
        lower = jax.jit(function_of(case)).trace(arrays).lower
        with pytest.raises(RuntimeError, match=f"{case.operator} can be lowered for CUDA only"):
            lower(lowering_platforms=("cuda",))
