"""Channels last, in one, two and three dimensions: the same bits, through views, traced or not."""

import re

import numpy as np
import pytest
import tensorflow as tf
from support.functions import CONVOLUTIONS, functions_of
from support.tensorflowcases import channels_last, quiet, same_bits

from cudeform import engine
from cudeform.interop import tensorflow as adapter

pytestmark = [
    quiet,
    pytest.mark.parametrize("case", CONVOLUTIONS[:3], ids=lambda case: case.operator),
]


def last(case):
    """The operands of a case, by name."""
    return {name: tf.constant(channels_last(name, a)) for name, a in case.operands.items()}


@pytest.mark.parametrize("traced", [False, True])
def test_results_are_the_same_without_copies(case, traced, monkeypatch):
    seen = []
    forward = engine.forward

    def spy(operands, *rest):
        seen.append({name: a.ctypes.data for name, a in operands.present().items()})
        seen.append(operands.input.strides[1])
        forward(operands, *rest)

    monkeypatch.setattr(engine, "forward", spy)
    function = getattr(adapter, case.operator)
    function = tf.function(function) if traced else function
    operands = last(case)
    output = function(**operands, **case.settings)
    assert seen[0] == {name: np.from_dlpack(t).ctypes.data for name, t in operands.items()}
    assert seen[1] == case.input.itemsize  # channels are neighbours
    wanted = functions_of(case).forward(**case.arguments)
    assert same_bits(output, channels_last("output", wanted))


def test_gradients_are_the_same(case):
    operands = last(case)
    with tf.GradientTape() as tape:
        tape.watch(operands)
        output = getattr(adapter, case.operator)(**operands, **case.settings)
    grads = tape.gradient(
        output, operands, tf.constant(channels_last("grad_output", case.grad_output))
    )
    expected = functions_of(case).backward(**case.backward_arguments)
    for name, grad in grads.items():
        wanted = channels_last(name, getattr(expected, name))
        assert grad.shape == wanted.shape, name
        np.testing.assert_allclose(grad, wanted, rtol=1e-12, atol=1e-12)


def test_channels_first_is_a_format_too(case):
    formats = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
    function, operands = getattr(adapter, case.operator), case.map(tf.constant).operands
    output = function(**operands, **case.settings, data_format=formats[case.axes])
    assert same_bits(output, functions_of(case).forward(**case.arguments))


def test_errors_say_which_order_their_shapes_are_in(case):
    function, operands = getattr(adapter, case.operator), last(case)
    offset = operands.pop("offset")[..., 1:]
    order, kernel = {1: ("NCW", "KW"), 2: ("NCHW", "KH, KW"), 3: ("NCDHW", "KD, KH, KW")}[case.axes]
    text = f'in the order of data_format="{order}", the weight\'s as (O, C/groups, {kernel})'
    with pytest.raises(ValueError, match=re.escape(text)):
        function(**operands, offset=offset, **case.settings)
    with pytest.raises(ValueError, match="data_format must be one of"):
        function(**operands, offset=offset, data_format="CHWN")
