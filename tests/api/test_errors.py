"""Wrong calls and options raise ValueError or TypeError with a reason, and no other exception."""

import re
from typing import Any

import numpy as np
import pytest
from cases import ARRAYS
from hypothesis import example, given
from hypothesis import strategies as st
from support.refusals import Foreign, backward, forward

import cudeform


def test_the_unchanged_call_is_accepted() -> None:
    assert forward().shape == (2, 6, 6, 5)
    assert backward().weight.shape == (6, 2, 3, 3)


@pytest.mark.parametrize(
    ("needs", "error", "text"),
    [
        ("input", TypeError, "be a sequence of names, got 'input'; write (\"input\",)"),
        (("inputs",), ValueError, "got 'inputs'"),
        (("input", "grad_output"), ValueError, "got 'grad_output'"),
        ((1,), ValueError, "got 1"),
        ((["input"],), ValueError, "got ['input']"),
        (1, TypeError, "be a sequence of names, got 1"),
        (None, TypeError, "be a sequence of names, got None"),
    ],
)
def test_wrong_needs(needs: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"needs must .*{re.escape(text)}"):
        backward(needs=needs)


POSITIVE = "must be a positive integer or None"
RULE = "boundary_grad must be one of ('one_sided', 'zero', 'torchvision', 'mmcv')"


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("determinism", True, TypeError, "an option must be one of deterministic, allow_tf32, "),
        ("deterministic", 1, TypeError, "deterministic must be True or False, got 1"),
        ("deterministic", None, TypeError, "deterministic must be True or False, got None"),
        ("allow_tf32", "no", TypeError, "allow_tf32 must be True or False, got 'no'"),
        ("workspace_limit", 0, ValueError, f"workspace_limit {POSITIVE}, got 0"),
        ("workspace_limit", -5, ValueError, f"workspace_limit {POSITIVE}, got -5"),
        ("workspace_limit", 1e6, TypeError, f"workspace_limit {POSITIVE}, got 1000000.0"),
        ("workspace_limit", True, TypeError, f"workspace_limit {POSITIVE}, got True"),
        ("num_threads", 0, ValueError, f"num_threads {POSITIVE}, got 0"),
        ("num_threads", "2", TypeError, f"num_threads {POSITIVE}, got '2'"),
        ("boundary_grad", "paddle", ValueError, f"{RULE}, got 'paddle'"),
        ("boundary_grad", None, ValueError, f"{RULE}, got None"),
        ("boundary_grad", ["mmcv"], ValueError, f"{RULE}, got ['mmcv']"),
    ],
)
def test_bad_options(name: str, value: Any, error: type[Exception], text: str) -> None:
    before = forward()
    with pytest.raises(error, match=re.escape(text)), cudeform.options(**{name: value}):
        pass
    with pytest.raises(error, match=re.escape(text)):
        cudeform.set_options(**{name: value})
    np.testing.assert_array_equal(forward(), before)


shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 9, 18, 36]), max_size=5)
dtypes = st.sampled_from(["float64", "float32", "float16", "int64", "complex64", "object", ">f8"])
arrays = st.builds(lambda shape, dtype: np.zeros(shape, dtype), shapes, dtypes)
numbers = st.integers() | st.sampled_from([0, 1, 2, 3, 2**31, 2**63, 2**70, -1])
junk = st.sampled_from([None, [], "x", 1.5, {}, (), np.float64(1), np.zeros(()), b"12", Foreign])
sizes = numbers | junk | st.lists(numbers | st.tuples(numbers, numbers) | junk, max_size=4)


@example({"padding": ((0, 0), 2**70)}, ())
@example({"stride": 2**63, "padding": 2**63}, ("input",))
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(ARRAYS, arrays | junk)
        | dict.fromkeys(["stride", "padding", "dilation"], sizes),
    ),
    st.lists(st.sampled_from([*ARRAYS, 1, None]), max_size=3) | junk,
)
def test_malformed_calls_raise_nothing_but_value_and_type_errors(changes: Any, needs: Any) -> None:
    for call in (lambda: forward(**changes), lambda: backward(**changes, needs=needs)):
        try:
            result = call()
        except (ValueError, TypeError) as error:
            assert str(error)  # noqa: PT017
        else:
            assert isinstance(result, np.ndarray | cudeform.Gradients)
