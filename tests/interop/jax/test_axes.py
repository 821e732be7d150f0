"""JAX arrays in one and three dimensions: compiled, differentiated twice, mapped, as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from support.functions import FUNCTIONS, every, settings
from support.jaxcpu import assert_close, jax, jnp, on_jax, operands

from cudeform.interop.jax.call_spec import CallSpec

from jax import test_util  # isort: skip


def function_of(case: Case) -> Any:
    """The operator of operands by name, with the sizes of a case."""
    return lambda arrays: FUNCTIONS[case.axes].forward(**arrays, **settings(case))


@pytest.mark.promise("any array")
@every
def test_gradients_of_a_compiled_call_are_those_of_numpy(case: Case) -> None:
    there = on_jax(case)
    output, pull = jax.vjp(jax.jit(function_of(case)), operands(case))
    assert_close(output, FUNCTIONS[case.axes].forward(**case.arguments))
    (grads,) = pull(there.grad_output)
    wanted = FUNCTIONS[case.axes].backward(**case.backward_arguments)._asdict()
    assert_close(grads, {name: wanted[name] for name in grads})


@pytest.mark.promise("differentiable twice")
@every
def test_derivatives(case: Case) -> None:
    offset = np.floor(case.offset * 8) / 8 + 1 / 16  # away from whole coordinates
    arrays = operands(case) | {"offset": jnp.asarray(offset)}
    loss = lambda given: jnp.sum(jnp.sin(function_of(case)(given)))  # noqa: E731
    how = {"eps": 1e-6, "atol": 1e-6, "rtol": 1e-6}
    test_util.check_grads(loss, (arrays,), 1, ["fwd"], **how)
    test_util.check_grads(loss, (arrays,), 2, ["rev"], **how)


@every
def test_mapped(case: Case) -> None:
    arrays, function = operands(case), function_of(case)
    pairs = {name: jnp.stack([array, array / 2]) for name, array in arrays.items()}
    mapped = jax.vmap(function)(pairs)
    assert_close(mapped[1], function({name: array / 2 for name, array in arrays.items()}))


@every
def test_a_spec_survives_as_text(case: Case) -> None:
    jaxpr = jax.make_jaxpr(function_of(case))(operands(case))
    specs = [e.params["spec"] for e in jaxpr.eqns if "spec" in e.params]
    assert specs
    for spec in specs:
        assert CallSpec.from_text(spec.to_text().encode()) == spec
