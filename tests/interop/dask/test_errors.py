"""Errors of a call and of its tasks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import build
from support.daskcases import on_dask

import cudeform
from cudeform.interop.dask import deform_conv2d, deform_conv2d_backward

CASE = build("Dask, errors", size=(24, 24), offset="zero", padding=((1, 1), (1, 1))).cast("float32")


def refused(error: type[Exception], text: str, case: Any = None, **keywords: Any) -> None:
    """Both directions refuse the call when it is made."""
    case = on_dask(CASE, 8) if case is None else case
    with pytest.raises(error, match=re.escape(text)):
        deform_conv2d(**case.arguments, **keywords)
    with pytest.raises(error, match=re.escape(text)):
        deform_conv2d_backward(**case.backward_arguments, **keywords)


def test_a_bound_is_needed_where_there_are_several_chunks_in_space() -> None:
    text = (
        "max_displacement must be given if the offset has more than one chunk in space, got "
        "chunks ((8, 8, 8), (8, 8, 8)): say how far, in pixels, an offset may reach, "
        "cudeform.options(max_displacement=...), or rechunk({2: -1, 3: -1})"
    )
    refused(ValueError, text)


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (-1, "max_displacement must be at least 0, got -1"),
        (np.nan, "max_displacement must be at least 0, got nan"),
        ((1, 2, 3), "for each of 2 axes a number or a pair (back, forward), got (1, 2, 3)"),
        ((1, (2, 3, 4)), "a number or a pair (back, forward), got (1, (2, 3, 4))"),
    ],
)
def test_bounds_that_are_none(bound: Any, text: str) -> None:
    refused(ValueError, text, max_displacement=bound)


def test_a_bound_that_is_no_number() -> None:
    refused(
        TypeError, "max_displacement must be made of numbers, got 'far'", max_displacement="far"
    )


def displaced(at: tuple[int, ...], displacement: float) -> Any:
    offset = CASE.offset.copy()
    offset[at] = displacement
    return on_dask(replace(CASE, offset=offset), 8)


def test_a_displacement_beyond_the_bound_is_refused_by_its_task() -> None:
    case = displaced((1, 9, 17, 3), -6.5)  # dx of the middle tap
    text = (
        "offset must stay within max_displacement: dx in [-2, 3], got [-6.5, 0] in rows 16:24, "
        "columns 0:8; declare a larger one"
    )
    bound = (4, (2, 3))
    output = deform_conv2d(**case.arguments, max_displacement=bound)
    # Column 3 minus 6.5 is outside of the image.
    output.compute(scheduler="sync")
    case = displaced((1, 9, 17, 7), -6.5)
    output = deform_conv2d(**case.arguments, max_displacement=bound)
    grads = deform_conv2d_backward(**case.backward_arguments, max_displacement=bound)
    for lazy in (output, grads.weight, grads.input):
        with pytest.raises(ValueError, match=re.escape(text)):
            lazy.compute(scheduler="sync")


@pytest.mark.parametrize("far", [1e6, -1e6, np.inf, -np.inf])
def test_taps_that_leave_the_image_pass(far: float) -> None:
    case = displaced((0, 8, 12, 12), far)
    output = deform_conv2d(**case.arguments, max_displacement=2).compute(scheduler="sync")
    plain = replace(CASE, offset=case.offset.compute(scheduler="sync"))
    np.testing.assert_allclose(output, cudeform.deform_conv2d(**plain.arguments), atol=1e-5)


def test_shapes_and_dtypes_are_checked_when_the_call_is_made() -> None:
    case = on_dask(CASE, 8)
    refused(ValueError, "mask must have shape", replace(case, mask=case.mask[:, :5]))
    text = "weight must have the dtype of input, float32, got float64; convert it before the call"
    refused(TypeError, text, replace(case, weight=case.weight.astype("f8")))
    with pytest.raises(ValueError, match="grad_output must have shape"):
        deform_conv2d_backward(case.grad_output[:, :1], **case.arguments, max_displacement=1)


def test_unknown_chunks() -> None:
    case = on_dask(CASE, 8)
    some = case.input[da.from_array(np.array([True, True]), chunks=1)]
    text = "input must have chunks of known sizes, got shape (nan, 4, 24, 24)"
    refused(ValueError, text, replace(case, input=some), max_displacement=1)


def foreign(module: str, name: str) -> Any:
    return type(name, (), {"__module__": module, "shape": (1, 1, 2, 2)})()


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (foreign("xarray.core.dataarray", "DataArray"), "xarray.apply_ufunc with dask='allowed'"),
        (foreign("zarr.core.array", "Array"), "dask.array.from_zarr makes a lazy array of it"),
        (dask.delayed(np.ones((1, 1, 2, 2))), "dask.array.from_delayed makes a lazy array of it"),
    ],
    ids=["xarray", "zarr", "delayed"],
)
def test_what_could_be_a_dask_array_has_words_of_its_own(array: Any, text: str) -> None:
    with pytest.raises(TypeError, match="^input must be a plain array, got .*" + re.escape(text)):
        cudeform.deform_conv2d(array, CASE.offset, CASE.weight)


def test_arrays_of_a_framework_beside_dask_arrays() -> None:
    torch = pytest.importorskip("torch")
    case = replace(on_dask(CASE, 8), weight=torch.as_tensor(CASE.weight))
    text = (
        "weight must be an array of the same library as input, dask, got an array of torch; "
        "convert the arrays of torch by numpy.asarray"
    )
    with pytest.raises(TypeError, match=re.escape(text)):
        cudeform.deform_conv2d(**case.arguments)


def test_blocks_of_another_library_are_refused() -> None:
    masked = da.from_array(np.ma.masked_less(CASE.input, 0), chunks=(1, 4, 8, 8))
    refused(
        TypeError, "a block of input must be a plain array", replace(on_dask(CASE, 8), input=masked)
    )
