"""Properties of every call: convolution, shift, padding, adjoint, linearity, chunking."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import FINITE, Case, build, named, random_cases
from checks import both, least_limit
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_allclose, assert_array_equal

import cudeform


def forward(case: Case, **changes: Any) -> Any:
    return cudeform.deform_conv2d(**{**case.arguments, **changes})


def backward(case: Case, **changes: Any) -> cudeform.Gradients:
    return cudeform.deform_conv2d_backward(**{**case.backward_arguments, **changes})


def close(actual: Any, desired: Any) -> None:
    assert_allclose(actual, desired, rtol=1e-10, atol=1e-10)


finite_cases = random_cases(offsets=FINITE).map(lambda case: case.cast("float64"))


def convolution(case: Case) -> Any:
    """Ordinary convolution by windows of the padded image; knows nothing of offsets."""
    (stride_h, stride_w), (dilation_h, dilation_w) = case.stride, case.dilation
    kernel_h, kernel_w = case.weight.shape[2:]
    padded = np.pad(case.input, ((0, 0), (0, 0), *case.padding))
    reach = (dilation_h * (kernel_h - 1) + 1, dilation_w * (kernel_w - 1) + 1)
    windows = sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, ::stride_h, ::stride_w, ::dilation_h, ::dilation_w]
    groups = case.input.shape[1] // case.weight.shape[1]
    outputs = [
        np.einsum("ncyxij,ocij->noyx", part, weight)
        for part, weight in zip(
            np.split(windows, groups, axis=1), np.split(case.weight, groups), strict=True
        )
    ]
    bias = 0 if case.bias is None else case.bias[:, None, None]
    return np.concatenate(outputs, axis=1) + bias


@both
@given(case=random_cases(offsets=("zero",)))
def test_zero_offsets_are_ordinary_convolution(compute: Any, case: Case) -> None:
    close(compute(**{**case.arguments, "mask": None})["output"], convolution(case))


@given(random_cases(offsets=("zero",)), st.integers(-3, 3), st.integers(-3, 3))
def test_whole_offsets_are_a_shift(case: Case, dy: int, dx: int) -> None:
    offset = case.offset.copy()
    offset[:, 0::2], offset[:, 1::2] = dy, dx
    shifted = replace(case, offset=offset, mask=None)
    # The image is padded explicitly, with 3 more pixels on each side so that the shift wraps zeros.
    border = [(before + 3, after + 3) for before, after in case.padding]
    wide = np.roll(np.pad(case.input, ((0, 0), (0, 0), *border)), (-dy, -dx), axis=(2, 3))
    cropped = replace(case, input=wide[:, :, 3:-3, 3:-3], padding=((0, 0), (0, 0)))
    close(forward(shifted), convolution(cropped))


@given(finite_cases)
def test_padding_is_a_border_of_explicit_zeros(case: Case) -> None:
    padded = np.pad(case.input, ((0, 0), (0, 0), *case.padding))
    close(forward(case, input=padded, padding=0), forward(case))
    explicit, implicit = backward(case, input=padded, padding=0), backward(case)
    (top, _), (left, _) = case.padding
    height, width = case.input.shape[2:]
    close(explicit.input[:, :, top : top + height, left : left + width], implicit.input)
    close(explicit.weight, implicit.weight)
    if case.mask is not None:
        close(explicit.mask, implicit.mask)


@pytest.mark.parametrize("name", ["offset normal", "torchvision, offset normal"])
def test_padding_does_not_change_the_offset_gradient_either(name: str) -> None:
    case = named(name)  # no coordinate is whole, where the rule for the edge would show
    padded = np.pad(case.input, ((0, 0), (0, 0), *case.padding))
    close(backward(case, input=padded, padding=0).offset, backward(case).offset)


@given(finite_cases)
def test_the_gradient_of_the_input_is_the_adjoint(case: Case) -> None:
    case = replace(case, bias=None)
    forwards = (forward(case) * case.grad_output).sum()
    close((backward(case).input * case.input).sum(), forwards)


@given(finite_cases)
def test_gradients_of_weight_mask_and_bias_are_adjoint_too(case: Case) -> None:
    unbiased = (forward(case, bias=None) * case.grad_output).sum()
    grads = backward(case)
    close((grads.weight * case.weight).sum(), unbiased)
    if case.mask is not None:
        close((grads.mask * case.mask).sum(), unbiased)
    if case.bias is not None:
        close(grads.bias, case.grad_output.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("name", ["input", "weight", "mask"])
@given(case=finite_cases)
def test_linear_in(name: str, case: Case) -> None:
    case = replace(case, bias=None, mask=np.ones_like(case.offset[:, ::2]))
    one = getattr(case, name)
    other = np.sin(3 * one + 1)
    combined = forward(case, **{name: 2 * one - 3 * other})
    close(combined, 2 * forward(case) - 3 * forward(case, **{name: other}))


@given(finite_cases)
def test_the_gradient_is_linear_in_grad_output(case: Case) -> None:
    once, thrice = backward(case), backward(case, grad_output=3 * case.grad_output)
    for a, b in zip(once, thrice, strict=True):
        if a is not None:
            close(b, 3 * a)


def test_the_bias_is_added_to_every_position_once() -> None:
    case = named("torchvision, batch 33")
    added = forward(case) - forward(case, bias=None)
    close(added, np.broadcast_to(case.bias[:, None, None], added.shape))


@pytest.mark.parametrize("name", ["torchvision, batch 33", "batch 37", "2 groups, 3 offset groups"])
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    case = named(name)
    ones = [
        replace(
            case,
            input=case.input[n : n + 1],
            offset=case.offset[n : n + 1],
            mask=case.mask[n : n + 1],
            grad_output=case.grad_output[n : n + 1],
        )
        for n in range(len(case.input))
    ]
    close(forward(case), np.concatenate([forward(one) for one in ones]))
    whole, parts = backward(case), [backward(one) for one in ones]
    for field in ("input", "offset", "mask"):
        close(getattr(whole, field), np.concatenate([getattr(part, field) for part in parts]))
    for field in ("weight", "bias"):
        close(getattr(whole, field), sum(getattr(part, field) for part in parts))


# Cut into whole images, into rows of an image or into parts of a row, as the limit goes down.
LARGE = build(
    "large",
    channels=6,
    size=(20, 31),
    out_channels=4,
    padding=((1, 1), (2, 0)),
    groups=2,
    offset_groups=3,
    batch=3,
)


@pytest.mark.each_value
@pytest.mark.parametrize("times_the_least", [1, 4, 20, 10_000])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_do_not_depend_on_how_the_work_is_cut(times_the_least: int, threads: int) -> None:
    limit = times_the_least * least_limit(LARGE)
    wanted, wanted_grads = forward(LARGE), backward(LARGE)
    with cudeform.options(workspace_limit=limit, num_threads=threads):
        close(forward(LARGE), wanted)
        for grad, wanted_grad in zip(backward(LARGE), wanted_grads, strict=True):
            close(grad, wanted_grad)


def test_the_smallest_limit_cuts_a_row_and_gives_the_same_result() -> None:
    case = build("one row", size=(1, 97), kernel=(1, 3), channels=2, out_channels=2, batch=2)
    wanted, wanted_grads = forward(case), backward(case)
    with cudeform.options(workspace_limit=least_limit(case)):
        close(forward(case), wanted)
        for grad, wanted_grad in zip(backward(case), wanted_grads, strict=True):
            close(grad, wanted_grad)


def test_gradients_that_are_not_needed_are_not_there_and_the_others_are_the_same() -> None:
    case = named("torchvision, offset half")
    every = backward(case)
    for name in every._fields:
        grads = backward(case, needs=(name,))
        assert [n for n, grad in grads._asdict().items() if grad is not None] == [name]
        assert_array_equal(getattr(grads, name), getattr(every, name))
