"""Every operator on tensors: eager, traced with an unknown batch, under tapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import random_like
from support.functions import AnyCase, every, functions_of, shared
from support.tensorflowcases import tf


@pytest.mark.promise("any array")
@every
def test_results_are_those_of_numpy(case: AnyCase) -> None:
    functions, there = functions_of(case), case.map(tf.constant)
    along = random_like(case.operands)
    tangents = functions.tangents(**{name: tf.constant(array) for name, array in along.items()})
    got = [functions.forward(**there.arguments), functions.jvp(tangents, **there.arguments)]
    got += functions.backward(**there.backward_arguments)
    got += functions.double_backward(tangents, **there.backward_arguments)
    wanted = [
        functions.forward(**case.arguments),
        functions.jvp(functions.tangents(**along), **case.arguments),
    ]
    wanted += functions.backward(**case.backward_arguments)
    wanted += functions.double_backward(functions.tangents(**along), **case.backward_arguments)
    for tensor, array in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


@every
def test_a_traced_call_of_an_unknown_batch(case: AnyCase) -> None:
    functions, operands = functions_of(case), case.map(tf.constant).operands
    names = list(operands)

    def unknown(name: str) -> Any:
        shape = list(operands[name].shape)
        if name not in shared(case):
            shape[0] = None
        return tf.TensorSpec(shape, tf.float64)

    @tf.function(input_signature=[unknown(name) for name in names])  # type: ignore[untyped-decorator]
    def call(*tensors: Any) -> Any:
        output = functions.forward(**dict(zip(names, tensors, strict=True)), **case.settings)
        assert output.shape.as_list() == [None, *case.grad_output.shape[1:]]
        return output

    got = call(*operands.values())
    np.testing.assert_array_equal(got, functions.forward(**case.arguments))


@pytest.mark.promise("differentiable twice")
@every
def test_a_tape_over_a_tape(case: AnyCase) -> None:
    functions, operands = functions_of(case), case.map(tf.constant).operands
    names = list(operands)
    along = random_like(case.operands)
    with tf.GradientTape() as outer:
        outer.watch(list(operands.values()))
        with tf.GradientTape() as inner:
            inner.watch(list(operands.values()))
            output = functions.forward(**operands, **case.settings)
            loss = tf.reduce_sum(output * case.grad_output)
        grads = inner.gradient(loss, list(operands.values()))
        total = tf.add_n([tf.reduce_sum(g * along[n]) for n, g in zip(names, grads, strict=True)])
    wanted = functions.backward(**case.backward_arguments)
    for name, grad in zip(names, grads, strict=True):
        np.testing.assert_array_equal(grad, getattr(wanted, name))
    chosen = [name for name in names if name != "bias"]
    second = outer.gradient(total, [operands[name] for name in chosen])
    exact = functions.double_backward(functions.tangents(**along), **case.backward_arguments)
    for name, result in zip(chosen, second, strict=True):
        np.testing.assert_allclose(result, getattr(exact, name), rtol=1e-12, atol=1e-12)
