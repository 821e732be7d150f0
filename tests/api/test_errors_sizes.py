"""Impossible sizes are refused; the text has the rule, its value here, and what was passed."""

import re
from typing import Any

import numpy as np
import pytest
from support.refusals import refused

import cudeform

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
    "must be an integer, a pair (vertical, horizontal), a pair of pairs "
    '((top, bottom), (left, right)), "valid" or "same"'
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
        ({"padding": np.ones((2, 3), int)}, f"padding {PAIR}, got (1, 1, 1)"),
        ({"stride": np.array([1, 0])}, "stride must be at least 1, got 0"),
        ({"padding": "1"}, f"padding {PAIRS}, got '1'"),
        ({"padding": "SAME"}, f"padding {PAIRS}, got 'SAME'"),
        (
            {"padding": "same", "stride": (2, 1)},
            'padding="same" needs stride 1, got (2, 1). Two rules are in use for other strides: '
            "the padding of stride 1, ((1, 1), (1, 1)), or the padding for ceil(size / stride) "
            "rows and columns of output, as in TensorFlow and ONNX, which is ((0, 1), (1, 1)) here",
        ),
    ],
)
def test_impossible_sizes(sizes: dict[str, Any], text: str) -> None:
    refused(ValueError, text, **sizes)


NO_INTEGERS = [1.0, 1.5, None, (1, None), (1.0, 1), {1: 1}, 1j]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("stride", "padding", "dilation") for value in NO_INTEGERS]
    + [("stride", "1"), ("dilation", "same")],
)
def test_sizes_that_are_no_integers(name: str, value: Any) -> None:
    culprit = next(v for v in value if type(v) is not int) if isinstance(value, tuple) else value
    refused(TypeError, f"{name} must be made of integers, got {culprit!r}", **{name: value})


def test_a_size_that_truncating_division_would_accept() -> None:
    # (2 - 3) / 2 is 0 when truncated, and one output position would read outside of the image.
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
