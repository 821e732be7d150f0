"""Transposed convolutions: the adjoint, sizes, cropping, and errors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cases import Case
from support.functions import CASES, TransposedCase, functions_of

import cudeform

every = pytest.mark.parametrize(
    "case", [c for c in CASES if isinstance(c, TransposedCase)], ids=lambda case: case.name
)

IMAGE = np.ones((1, 4, 3, 3))
OFFSET = np.zeros((1, 18, 3, 3))
WEIGHT = np.ones((4, 2, 3, 3))


@pytest.mark.promise("right")
@every
def test_it_is_the_adjoint_of_the_convolution(case: TransposedCase) -> None:
    """``<T x, c> = <x, F c>``; where F would have more positions, it has less padding."""
    of_convolution = getattr(cudeform, f"deform_conv{case.axes}d")
    arguments = case.arguments | {"bias": None}
    output = functions_of(case).forward(**arguments)
    by_axis = zip(case.padding, case.output_padding, case.stride, strict=True)
    padding = tuple(
        (begin, end - more if more >= stride else end) for (begin, end), more, stride in by_axis
    )
    image = case.convolution.arguments | {"bias": None, "padding": padding}
    out = of_convolution(**image)
    assert out.shape == case.input.shape
    np.testing.assert_allclose(
        np.vdot(output, case.grad_output), np.vdot(case.input, out), rtol=1e-12
    )


def test_padding_crops_each_side_on_its_own() -> None:
    rng = np.random.default_rng(0)
    image, weight = rng.standard_normal((1, 4, 3, 3)), rng.standard_normal((4, 2, 3, 3))
    offset = rng.standard_normal(OFFSET.shape)
    whole = cudeform.deform_conv_transpose2d(image, offset, weight, stride=2)
    cropped = cudeform.deform_conv_transpose2d(
        image, offset, weight, stride=2, padding=((2, 0), (1, 3))
    )
    np.testing.assert_allclose(cropped, whole[:, :, 2:, 1:-3])


def test_output_padding_adds_at_the_end() -> None:
    rng = np.random.default_rng(0)
    image, weight = rng.standard_normal((1, 4, 3, 3)), rng.standard_normal((4, 2, 3, 3))
    offset = rng.standard_normal(OFFSET.shape)
    whole = cudeform.deform_conv_transpose2d(image, offset, weight, stride=3)
    padded = cudeform.deform_conv_transpose2d(
        image, offset, weight, stride=3, output_padding=(2, 1)
    )
    assert padded.shape == (1, 2, 11, 10)
    np.testing.assert_allclose(padded[:, :, :9, :9], whole)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"output_padding": 1}, "output_padding along the height must be less than stride = 1"),
        ({"output_padding": -1}, "output_padding must be at least 0, got -1"),
        ({"padding": "same"}, "padding must be integers, got 'same'"),
        ({"padding": 5}, "output height = (size - 1)*stride - padding"),
        ({"groups": 3}, "groups = 3 must divide C = 4"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        (
            {"weight": np.ones((3, 2, 3, 3))},
            "weight must have shape (C, O/groups, KH, KW) with C = 4, got (3, 2, 3, 3)",
        ),
        (
            {"offset": np.zeros((1, 54, 3, 3))},
            "offset_groups = offset.shape[1] / (2*KH*KW) = 3 must divide O = 2",
        ),
        (
            {"offset": np.zeros((1, 18, 5, 5))},
            "offset must have shape (N, 2*offset_groups*KH*KW, H, W) = (1, 18, 3, 3)",
        ),
        (
            {"mask": np.zeros((1, 9, 5, 5))},
            "mask must have shape (N, offset_groups*KH*KW, H, W) = (1, 9, 3, 3)",
        ),
        ({"bias": np.zeros(4)}, "bias must have shape (O,) = (2,), got (4,)"),
        ({"input": np.ones((1, 4, 9))}, "input must have shape (N, C, H, W), got (1, 4, 9)"),
    ],
)
def test_refusals(changed: dict[str, Any], text: str) -> None:
    arguments = {"input": IMAGE, "offset": OFFSET, "weight": WEIGHT} | changed
    with pytest.raises(ValueError, match=re.escape(text)):
        cudeform.deform_conv_transpose2d(**arguments)


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("(N, O, OH, OW) = (1, 2, 5, 5)")):
        cudeform.deform_conv_transpose2d_backward(IMAGE, IMAGE, OFFSET, WEIGHT)


@every
def test_empty_batches_give_empty_outputs_and_zero_gradients(case: Case) -> None:
    batched = ("input", "offset", "mask", "grad_output")
    empty = case.backward_arguments
    empty |= {name: empty[name][:0] for name in batched}
    grads = functions_of(case).backward(**empty)
    assert not grads.weight.any()
    assert not grads.bias.any()
    del empty["grad_output"]
    assert functions_of(case).forward(**empty).shape == (0, *case.grad_output.shape[1:])


def test_nan_and_infinite_displacements() -> None:
    offset = OFFSET.copy()
    offset[0, 0, 0, 0] = np.inf
    output = cudeform.deform_conv_transpose2d(IMAGE, offset, WEIGHT)
    np.testing.assert_allclose(output[0, 0, 0, 0], 0)  # the only tap that reached this pixel
    offset[0, 0, 0, 0] = np.nan
    grads = cudeform.deform_conv_transpose2d_backward(np.ones((1, 2, 5, 5)), IMAGE, offset, WEIGHT)
    assert np.isnan(grads.input[0, :, 0, 0]).all()
    assert np.isfinite(grads.input[0, :, 1:]).all()
