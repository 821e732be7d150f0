"""CuPy arrays, through a stand-in for CuPy whose GPU is the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import build
from support.functions import AnyCase, every, functions_of

import cudeform
from cudeform.checks import GRADIENTS
from cudeform.gpu.cuda import cublas
from cudeform.gpu.replay import launch_plans

CASE = build("CuPy", channels=8, groups=2, offset_groups=2, out_channels=4).cast("float32")


@pytest.mark.promise("any array")
def test_results_are_cupy_arrays_on_the_same_device(cupy: Any) -> None:
    there = CASE.map(cupy.asarray)
    output = cudeform.deform_conv2d(**there.arguments)
    assert isinstance(output, cupy.ndarray)
    wanted = cudeform.deform_conv2d(**CASE.arguments)
    np.testing.assert_allclose(cupy.asnumpy(output), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@every
def test_every_operator(cupy: Any, case: AnyCase) -> None:
    case = case.cast("float32")
    there, functions = case.map(cupy.asarray), functions_of(case)
    pairs = [(functions.forward(**there.arguments), functions.forward(**case.arguments))]
    grads = functions.backward(**there.backward_arguments)
    pairs += zip(grads, functions.backward(**case.backward_arguments), strict=True)
    for got, wanted in pairs:
        assert isinstance(got, cupy.ndarray)
        np.testing.assert_allclose(cupy.asnumpy(got), wanted, rtol=1e-4, atol=1e-5)


def test_only_needed_gradients_are_computed(cupy: Any) -> None:
    there = CASE.map(cupy.asarray)
    grads = cudeform.deform_conv2d_backward(**there.backward_arguments, needs=("offset", "bias"))
    wanted = cudeform.deform_conv2d_backward(**CASE.backward_arguments)
    assert grads.input is grads.weight is grads.mask is None
    for name in ("offset", "bias"):
        got = cupy.asnumpy(getattr(grads, name))
        np.testing.assert_allclose(got, getattr(wanted, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_second_call_computes_with_its_own_arrays(cupy: Any, deterministic: bool) -> None:
    other = CASE.map(lambda array: 0.5 * array[..., ::-1] if array.ndim > 1 else array)
    with cudeform.options(deterministic=deterministic):
        for case in (CASE, other):
            got = cudeform.deform_conv2d_backward(**case.map(cupy.asarray).backward_arguments)
            wanted = cudeform.deform_conv2d_backward(**case.backward_arguments)
            for name in GRADIENTS:
                array, expected = cupy.asnumpy(getattr(got, name)), getattr(wanted, name)
                np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)
    assert len(launch_plans.PLANS) == 1


def test_all_is_queued_on_the_current_stream(cupy: Any) -> None:
    with cudeform.options(deterministic=True):
        cudeform.deform_conv2d_backward(**CASE.map(cupy.asarray).backward_arguments)
    assert cupy.backend.streams == {cupy.backend.stream}


def test_products_of_a_captured_stream(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy refuses cuBLAS there, so the library itself gets the same arguments."""
    there = CASE.map(cupy.asarray)
    wanted = cupy.asnumpy(cudeform.deform_conv2d(**there.arguments))
    library = cupy.backend.library()
    monkeypatch.setattr(cublas, "_library", lambda major: library)
    cupy.backend.capturing = True
    got = cupy.asnumpy(cudeform.deform_conv2d(**there.arguments))
    np.testing.assert_array_equal(got, wanted)
    assert library.multiplied
    assert cupy.backend.streams == {cupy.backend.stream}


def test_cupy_and_numpy_arrays_do_not_mix(cupy: Any) -> None:
    arguments = CASE.arguments | {"offset": cupy.asarray(CASE.offset)}
    with pytest.raises(TypeError, match=r"offset must .* as input, numpy, got an array of cupy"):
        cudeform.deform_conv2d(**arguments)


@pytest.mark.parametrize(("address", "stride"), [(1, 0), (0, 2)])
def test_misaligned_memory_is_refused(cupy: Any, address: int, stride: int) -> None:
    there = CASE.map(cupy.asarray)
    there.mask.data.ptr += address
    *outer, last = there.mask.strides
    there.mask.strides = (*outer, last + stride)
    with pytest.raises(ValueError, match=r"float32 on a GPU must have .* multiples of 4 bytes"):
        cudeform.deform_conv2d(**there.arguments)


def test_arrays_on_two_devices_are_refused(cupy: Any) -> None:
    there = CASE.map(cupy.asarray)
    there.mask.device = type("Device", (), {"id": 1})()
    with pytest.raises(ValueError, match="mask must be on the device of input, cuda:0, got cuda:1"):
        cudeform.deform_conv2d(**there.arguments)
