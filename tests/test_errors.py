"""What cannot be computed is refused in words: the rule, its value here, and what came."""

import re
from typing import Any

import numpy as np
import pytest
from cases import ARRAYS, DTYPES
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cudeform


def arguments(**changes: Any) -> dict[str, Any]:
    """A call with 2 groups and 2 offset groups that is right but for the changes."""
    right = {
        "grad_output": np.ones((2, 6, 6, 5)),
        "input": np.ones((2, 4, 6, 5)),
        "offset": np.zeros((2, 36, 6, 5)),
        "weight": np.ones((6, 2, 3, 3)),
        "bias": np.ones(6),
        "stride": 1,
        "padding": 1,
        "dilation": 1,
        "mask": np.ones((2, 18, 6, 5)),
    }
    return right | changes


def forward(**changes: Any) -> Any:
    call = arguments(**changes)
    del call["grad_output"]
    return cudeform.deform_conv2d(**call)


def backward(**changes: Any) -> cudeform.Gradients:
    return cudeform.deform_conv2d_backward(**arguments(**changes))


def refused(error: type[Exception], text: str, **changes: Any) -> None:
    """Both directions must refuse the changed call; ``text`` is what the message must hold."""
    with pytest.raises(error, match=re.escape(text)):
        backward(**changes)
    if "grad_output" not in changes:
        with pytest.raises(error, match=re.escape(text)):
            forward(**changes)


def test_the_unchanged_call_is_accepted() -> None:
    assert forward().shape == (2, 6, 6, 5)
    assert backward().weight.shape == (6, 2, 3, 3)


INPUT = "input must have shape (N, C, H, W)"
WEIGHT = "weight must have shape (O, C/groups, KH, KW)"
OFFSET = "offset must have shape (N, 2*offset_groups*KH*KW, OH, OW)"
GROUPS = f"{WEIGHT} where groups divides O: groups = C / weight.shape[1]"
MULTIPLE = "positive multiple of 2*KH*KW = 18 (offset_groups = 1 makes it 18)"
MASK = "mask must have shape (N, offset_groups*KH*KW, OH, OW)"
GRAD = "grad_output must have shape (N, O, OH, OW) = (2, 6, 6, 5)"


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("input", (4, 6, 5), f"{INPUT}, got (4, 6, 5)"),
        ("input", (1, 2, 4, 6, 5), f"{INPUT}, got (1, 2, 4, 6, 5)"),
        ("input", (2, 4, 0, 5), f"{INPUT} with H, W >= 1, got (2, 4, 0, 5)"),
        ("input", (2, 4, 6, 0), f"{INPUT} with H, W >= 1, got (2, 4, 6, 0)"),
        ("weight", (6, 2, 3), f"{WEIGHT}, got (6, 2, 3)"),
        ("weight", (6, 2, 3, 3, 1), f"{WEIGHT}, got (6, 2, 3, 3, 1)"),
        ("weight", (6, 2, 0, 3), f"{WEIGHT} with KH, KW >= 1, got (6, 2, 0, 3)"),
        ("weight", (6, 2, 3, 0), f"{WEIGHT} with KH, KW >= 1, got (6, 2, 3, 0)"),
        ("weight", (6, 3, 3, 3), f"{WEIGHT} where C/groups divides C = 4, got (6, 3, 3, 3)"),
        ("weight", (6, 8, 3, 3), f"{WEIGHT} where C/groups divides C = 4, got (6, 8, 3, 3)"),
        ("weight", (6, 0, 3, 3), f"{WEIGHT} where C/groups divides C = 4, got (6, 0, 3, 3)"),
        ("weight", (5, 2, 3, 3), f"{GROUPS} = 2, got (5, 2, 3, 3)"),
        ("offset", (36, 6, 5), f"{OFFSET}, got (36, 6, 5)"),
        ("offset", (2, 10, 6, 5), f"{MULTIPLE}, got (2, 10, 6, 5)"),
        ("offset", (2, 20, 6, 5), f"{MULTIPLE}, got (2, 20, 6, 5)"),
        ("offset", (2, 0, 6, 5), f"{MULTIPLE}, got (2, 0, 6, 5)"),
        ("offset", (2, 54, 6, 5), "= 3 must divide C = 4, got offset of shape (2, 54, 6, 5)"),
        ("offset", (1, 36, 6, 5), f"{OFFSET} = (2, 36, 6, 5), got (1, 36, 6, 5)"),
        ("offset", (2, 36, 5, 5), f"{OFFSET} = (2, 36, 6, 5), got (2, 36, 5, 5)"),
        ("offset", (2, 36, 6, 4), f"{OFFSET} = (2, 36, 6, 5), got (2, 36, 6, 4)"),
        ("offset", (2, 36, 5, 6), f"{OFFSET} = (2, 36, 6, 5), got (2, 36, 5, 6)"),
        ("mask", (18, 6, 5), f"{MASK} = (2, 18, 6, 5), got (18, 6, 5)"),
        ("mask", (2, 17, 6, 5), f"{MASK} = (2, 18, 6, 5), got (2, 17, 6, 5)"),
        ("mask", (2, 9, 6, 5), f"{MASK} = (2, 18, 6, 5), got (2, 9, 6, 5)"),
        ("mask", (2, 36, 6, 5), f"{MASK} = (2, 18, 6, 5), got (2, 36, 6, 5)"),
        ("mask", (1, 18, 6, 5), f"{MASK} = (2, 18, 6, 5), got (1, 18, 6, 5)"),
        ("mask", (2, 18, 1, 1), f"{MASK} = (2, 18, 6, 5), got (2, 18, 1, 1)"),
        ("bias", (5,), "bias must have shape (O,) = (6,), got (5,)"),
        ("bias", (1,), "bias must have shape (O,) = (6,), got (1,)"),
        ("bias", (), "bias must have shape (O,) = (6,), got ()"),
        ("bias", (1, 6, 1, 1), "bias must have shape (O,) = (6,), got (1, 6, 1, 1)"),
        ("grad_output", (2, 6, 6, 4), f"{GRAD}, got (2, 6, 6, 4)"),
        ("grad_output", (1, 6, 6, 5), f"{GRAD}, got (1, 6, 6, 5)"),
        ("grad_output", (2, 1, 6, 5), f"{GRAD}, got (2, 1, 6, 5)"),
        ("grad_output", (6, 6, 5), f"{GRAD}, got (6, 6, 5)"),
        ("grad_output", (), f"{GRAD}, got ()"),
    ],
)
def test_impossible_shapes(name: str, shape: tuple[int, ...], text: str) -> None:
    refused(ValueError, text, **{name: np.ones(shape)})


PAIR = "must be an integer or a pair (vertical, horizontal)"
PAIRS = (
    "must be an integer, a pair (vertical, horizontal) or a pair of pairs "
    "((top, bottom), (left, right))"
)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"stride": (1, 0)}, "stride must be at least 1, got 0"),
        ({"stride": -1}, "stride must be at least 1, got -1"),
        ({"dilation": 0}, "dilation must be at least 1, got 0"),
        ({"dilation": (0, 1)}, "dilation must be at least 1, got 0"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
        ({"padding": (1, -1)}, "padding must be at least 0, got -1"),
        ({"padding": ((1, -2), (1, 1))}, "padding must be at least 0, got -2"),
        ({"padding": ((1, 1), (-3, 1))}, "padding must be at least 0, got -3"),
        ({"stride": 2**40}, "stride must be at most 2147483647, got 1099511627776"),
        ({"padding": 2**31}, "padding must be at most 2147483647, got 2147483648"),
        ({"padding": 2**30}, "input height plus padding must be at most 2147483647, got 6 + "),
        ({"dilation": 2**70}, f"dilation must be at most 2147483647, got {2**70}"),
        ({"stride": (1, 1, 1)}, f"stride {PAIR}, got (1, 1, 1)"),
        ({"stride": (1,)}, f"stride {PAIR}, got (1,)"),
        ({"dilation": ()}, f"dilation {PAIR}, got ()"),
        ({"padding": (1, 1, 1, 1)}, f"padding {PAIRS}, got (1, 1, 1, 1)"),
        ({"padding": ((1, 1), (1, 1, 1))}, f"padding {PAIR}, got (1, 1, 1)"),
    ],
)
def test_impossible_sizes(sizes: dict[str, Any], text: str) -> None:
    refused(ValueError, text, **sizes)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [1.0, 1.5, "1", None, (1, None), (1.0, 1), {1: 1}, 1j])
def test_sizes_that_are_no_integers(name: str, value: Any) -> None:
    culprit = next(v for v in value if type(v) is not int) if isinstance(value, tuple) else value
    refused(TypeError, f"{name} must be made of integers, got {culprit!r}", **{name: value})


def test_a_size_that_truncating_division_would_accept() -> None:
    # (2 - 3) / 2 is 0 when truncated, and one output position would read what is not there.
    call = {
        "input": np.ones((1, 1, 2, 2)),
        "offset": np.zeros((1, 18, 1, 1)),
        "weight": np.ones((1, 1, 3, 3)),
        "stride": 2,
    }
    text = (
        "output height = (size + padding - dilation*(kernel - 1) - 1) // stride + 1 must be "
        "positive: (2 + 0 - 1*(3 - 1) - 1) // 2 + 1 = 0"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        cudeform.deform_conv2d(**call)
    with pytest.raises(ValueError, match=re.escape(text)):
        cudeform.deform_conv2d_backward(np.ones((1, 1, 1, 1)), **call)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"dilation": (4, 1)}, "output height"),
        ({"dilation": (1, 4)}, "output width"),
        ({"dilation": 2**30}, "output height"),
        ({"weight": np.ones((6, 2, 9, 3)), "padding": 0}, "output height"),
        ({"weight": np.ones((6, 2, 3, 9)), "padding": 0}, "output width"),
    ],
)
def test_outputs_without_positions(sizes: dict[str, Any], text: str) -> None:
    refused(ValueError, f"{text} = ", **sizes)
    refused(ValueError, "must be positive", **sizes)


@pytest.mark.parametrize("size", [2**20, 2**30 - 1])
def test_the_largest_sizes_are_not_silently_wrong(size: int) -> None:
    # The second position lies one stride beyond the first, and the image one padding to its right.
    output = cudeform.deform_conv2d(
        np.ones((1, 1, 1, 1)),
        np.zeros((1, 2, 1, 3)),
        np.ones((1, 1, 1, 1)),
        stride=size,
        padding=((0, 0), (size, size)),
    )
    np.testing.assert_array_equal(output.ravel(), [0, 1, 0])


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float64"])
def test_mixed_dtypes(name: str, dtype: str) -> None:
    array = arguments()[name].astype(DTYPES[dtype])
    text = f"{name} must have the dtype of input, float64, got {dtype}"
    if name == "input":
        text = f"must have the dtype of input, {dtype}, got float64"
    refused(TypeError, text, **{name: array})


DTYPE = "must have a dtype among float16, bfloat16, float32, float64, got"
OTHERS = ["int64", "uint8", "bool", "complex64", "complex128", "O", "longdouble", "U1", "M8[s]"]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("dtype", OTHERS)
def test_dtypes_that_are_not_for_convolutions(name: str, dtype: str) -> None:
    array = np.zeros(arguments()[name].shape, dtype)
    refused(TypeError, f"{name} {DTYPE} {array.dtype.name}", **{name: array})


@pytest.mark.parametrize("dtype", ["int64", "complex128"])
def test_no_dtype_is_taken_because_all_arrays_share_it(dtype: str) -> None:
    arrays = {name: arguments()[name].astype(dtype) for name in ARRAYS if name != "grad_output"}
    refused(TypeError, f"{DTYPE} {dtype}", **arrays)


@pytest.mark.parametrize("name", ARRAYS)
def test_byte_swapped_arrays(name: str) -> None:
    array = arguments()[name]
    swapped = array.astype(array.dtype.newbyteorder())
    refused(TypeError, f"{name} {DTYPE} {swapped.dtype.str}", **{name: swapped})


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("what", [[[[[1.0]]]], 1.0, 1, "array", {}, object(), np.ndarray])
def test_what_is_no_array(name: str, what: Any) -> None:
    refused(TypeError, f"{name} must be an array of ", **{name: what})
    refused(TypeError, f"got {type(what).__name__}", **{name: what})


@pytest.mark.parametrize("name", ["grad_output", "input", "offset", "weight"])
def test_arrays_that_cannot_be_missing(name: str) -> None:
    refused(TypeError, f"{name} must be an array of ", **{name: None})
    refused(TypeError, "got NoneType", **{name: None})


@pytest.mark.parametrize("name", ["grad_output", "input", "offset", "weight", "bias", "mask"])
def test_things_of_numpy_that_have_a_shape_but_are_no_arrays(name: str) -> None:
    array = np.ones(3)
    for what in (np.dtype("float64"), np.broadcast(array, array), np.nditer(array), np.float64(1)):
        with pytest.raises((TypeError, ValueError), match=f"{name} must "):
            backward(**{name: what})


class Foreign:
    """An array of another library."""

    __module__ = "elsewhere.arrays"

    def __init__(self, array: Any) -> None:
        self.array, self.shape = array, array.shape

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_different_libraries(name: str) -> None:
    foreign = Foreign(arguments()[name])
    text = f"{name} must be an array of the same library as input, numpy, got an array of elsewhere"
    if name == "input":
        text = "must be an array of the same library as input, elsewhere, got an array of numpy"
    refused(TypeError, text, **{name: foreign})


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
RULE = "boundary_grad must be one of ('torchvision', 'mmcv')"


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


@settings(max_examples=500)
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
