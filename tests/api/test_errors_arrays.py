"""Arguments are refused with a reason: a wrong dtype, a wrong library, or no array at all."""

from typing import Any

import numpy as np
import pytest
from cases import ARRAYS, DTYPES
from support.refusals import Foreign, arguments, backward, refused


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
def test_unsupported_dtypes(name: str, dtype: str) -> None:
    array = np.zeros(arguments()[name].shape, dtype)
    refused(TypeError, f"{name} {DTYPE} {array.dtype.name}", **{name: array})


@pytest.mark.parametrize("dtype", ["int64", "complex128"])
def test_unsupported_dtypes_that_all_arrays_share(dtype: str) -> None:
    arrays = {name: arguments()[name].astype(dtype) for name in ARRAYS if name != "grad_output"}
    refused(TypeError, f"{DTYPE} {dtype}", **arrays)


@pytest.mark.parametrize("name", ARRAYS)
def test_byte_swapped_arrays(name: str) -> None:
    array = arguments()[name]
    swapped = array.astype(array.dtype.newbyteorder())
    refused(TypeError, f"{name} {DTYPE} {swapped.dtype.str}", **{name: swapped})


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("what", [[[[[1.0]]]], 1.0, 1, "array", {}, object(), np.ndarray])
def test_non_arrays(name: str, what: Any) -> None:
    refused(TypeError, f"{name} must be an array of ", **{name: what})
    refused(TypeError, f"got {type(what).__name__}", **{name: what})


@pytest.mark.parametrize("name", ["grad_output", "input", "offset", "weight"])
def test_missing_arrays(name: str) -> None:
    refused(TypeError, f"{name} must be an array of ", **{name: None})
    refused(TypeError, "got NoneType", **{name: None})


@pytest.mark.parametrize("name", ["grad_output", "input", "offset", "weight", "bias", "mask"])
def test_numpy_objects_with_a_shape_that_are_no_arrays(name: str) -> None:
    array = np.ones(3)
    for what in (np.dtype("float64"), np.broadcast(array, array), np.nditer(array), np.float64(1)):
        with pytest.raises((TypeError, ValueError), match=f"{name} must "):
            backward(**{name: what})


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_different_libraries(name: str) -> None:
    foreign = Foreign(arguments()[name])
    text = f"{name} must be an array of the same library as input, numpy, got an array of elsewhere"
    if name == "input":
        text = "must be an array of the same library as input, elsewhere, got an array of numpy"
    refused(TypeError, text, **{name: foreign})
