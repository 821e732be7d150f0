"""Every function accepts padding by name, and settings as arrays of integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import build

import cudeform

SIZES = {"stride": (1, 1), "dilation": (2, 1)}
# Kernels of even and odd sizes: "same" is ((3, 3), (0, 1)), the larger half at the end.
SAME = build("same", size=(9, 5), kernel=(4, 2), padding=((3, 3), (0, 1)), **SIZES)
VALID = build("valid", size=(9, 5), kernel=(4, 2), **SIZES)


def results(case: Any, padding: Any) -> list[Any]:
    """The results of all functions that take an image."""
    arguments = case.arguments | {"padding": padding}
    arrays = {n: arguments[n] for n in ("input", "offset", "weight", "bias", "mask")}
    tangents = cudeform.Tangents(**arrays)
    gradients = {"grad_output": case.grad_output, **arguments}
    return [
        cudeform.deform_conv2d(**arguments),
        *cudeform.deform_conv2d_backward(**gradients),
        cudeform.deform_conv2d_jvp(tangents, **arguments),
        *cudeform.deform_conv2d_double_backward(tangents, **gradients),
    ]


@pytest.mark.parametrize(
    ("name", "case"), [("same", SAME), ("valid", VALID)], ids=["same", "valid"]
)
def test_padding_by_name(name: str, case: Any) -> None:
    if name == "same":
        assert case.grad_output.shape[2:] == case.input.shape[2:]
    for got, wanted in zip(results(case, name), results(case, case.padding), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_padding_by_name_where_offsets_are_inspected() -> None:
    sizes = {"kernel_size": (4, 2), **SIZES}
    for name, numbers in (("same", ((3, 3), (0, 1))), ("valid", 0)):
        where = cudeform.sampling_locations(SAME.offset, padding=name, **sizes)
        wanted = cudeform.sampling_locations(SAME.offset, padding=numbers, **sizes)
        np.testing.assert_array_equal(where, wanted)
    image_size = SAME.input.shape[2:]
    assert cudeform.offset_stats(
        SAME.offset, image_size, padding="same", **sizes
    ) == cudeform.offset_stats(SAME.offset, image_size, padding=((3, 3), (0, 1)), **sizes)
    with pytest.raises(ValueError, match="which depends on the size of the image"):
        cudeform.sampling_locations(SAME.offset, (4, 2), stride=2, padding="same")


@pytest.mark.parametrize(
    ("sizes", "numbers"),
    [
        ({"padding": np.array([1, 2])}, {"padding": ((1, 1), (2, 2))}),
        ({"padding": np.array([[1, 0], [2, 1]])}, {"padding": ((1, 0), (2, 1))}),
        ({"padding": (np.array([1, 0]), 2)}, {"padding": ((1, 0), (2, 2))}),
        ({"padding": np.array(1)}, {"padding": ((1, 1), (1, 1))}),
        ({"stride": np.array([2, 1])}, {"stride": (2, 1)}),
        ({"dilation": np.array([1, 2], np.uint8)}, {"dilation": (1, 2)}),
    ],
)
def test_arrays_of_integers(sizes: dict[str, Any], numbers: dict[str, Any]) -> None:
    case = build("arrays", **numbers)
    got = cudeform.deform_conv2d(**case.arguments | sizes)
    np.testing.assert_array_equal(got, cudeform.deform_conv2d(**case.arguments))


def test_arrays_of_other_numbers_are_refused_with_the_true_reason() -> None:
    arguments = build("arrays").arguments
    with pytest.raises(TypeError, match=r"padding must be made of integers, got 1\.0"):
        cudeform.deform_conv2d(**arguments | {"padding": np.array([1.0, 1.0])})
    with pytest.raises(ValueError, match=r"stride must be .* a pair .*, got \(1, 1, 1\)"):
        cudeform.deform_conv2d(**arguments | {"stride": np.array([1, 1, 1])})
