"""Every operator of the table on Dask arrays that are cut along the batch; convolutions in space.

The operators differ in the number of axes of their arrays, and in which of them all images share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import HALF_DTYPES
from checks import assert_agrees, random_like
from support.functions import CASES, AnyCase, definition, functions_of, shared, takes_long

import cudeform
from cudeform.family import OPERATORS
from cudeform.geometry import Geometry

BATCH = (1, -0.5, 0.25, 2, -1)  # factors of the images of a case, one for each image of a test

WHOLE_IMAGES = [case for case in CASES if OPERATORS[case.operator].geometry_type is not Geometry]
CONVOLUTIONS = [case for case in CASES if case not in WHOLE_IMAGES]


def each_operator(cases: Sequence[AnyCase]) -> Any:
    marked = [pytest.param(case, id=case.operator, marks=takes_long(case)) for case in cases]
    return pytest.mark.parametrize("case", marked)


def several(case: AnyCase) -> AnyCase:
    """The case with more images."""
    factors, common = np.array(BATCH), shared(case)

    def multiplied(array: Any) -> Any:
        return factors.reshape(-1, *(1,) * (array.ndim - 1)) * array[:1]

    more = case.map(lambda array: multiplied(array) if array is not None else None)
    return more.with_operands({name: case.operands[name] for name in common})


def lazy(case: AnyCase, arrays: dict[str, Any], chunks: dict[str, Any]) -> dict[str, Any]:
    """Arrays by name; unless all images share them, in chunks of the batch, by default (2, 3)."""
    return {
        name: da.from_array(array, chunks=(chunks.get(name, (2, 3)), *array.shape[1:]))
        if name == "grad_output" or (name in case.operands and name not in shared(case))
        else array
        for name, array in arrays.items()
    }


def results(case: AnyCase, chunks: dict[str, Any] | None) -> dict[str, Any]:
    """The output and all derivatives of a case, lazy if there are chunks."""
    functions, along = functions_of(case), random_like(case.operands)
    arguments, backward = case.arguments, case.backward_arguments
    if chunks is not None:
        arguments, backward = (lazy(case, each, chunks) for each in (arguments, backward))
        along = lazy(case, along, {})
    tangents = functions.tangents(**along)
    return {
        "output": functions.forward(**arguments),
        "jvp": functions.jvp(tangents, **arguments),
        "backward": functions.backward(**backward)._asdict(),
        "double_backward": functions.double_backward(tangents, **backward)._asdict(),
    }


def flat(found: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{operation} {name}": array
        for operation, each in found.items()
        for name, array in (each if isinstance(each, dict) else {"": each}).items()
    }


@pytest.mark.promise("any array")
@each_operator(CASES)
def test_batch_chunks_give_the_values_of_a_plain_call(case: AnyCase) -> None:
    case = several(case)
    (first, _), *_ = case.operands.items()
    disagreeing = {first: (4, 1), "grad_output": (1, 2, 2)}
    there = flat(results(case, disagreeing))
    assert all(isinstance(array, da.Array) for array in there.values())
    (got,) = dask.compute(there, scheduler="sync")
    for name, array in flat(results(case, None)).items():
        lazily = there[name]
        assert (lazily.dtype, lazily.shape) == (array.dtype, array.shape), name
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        # BLAS's bits depend on the number of positions, so those of products differ.
        if shared(case):
            scale = abs(array).max()
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-13 * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.parametrize("dtype", HALF_DTYPES)
@each_operator(WHOLE_IMAGES)
def test_gradients_of_16_bits_are_rounded_once(case: AnyCase, dtype: str) -> None:
    case = several(case).cast(dtype)
    sums = definition(case)
    grads = functions_of(case).backward(**lazy(case, case.backward_arguments, {}))._asdict()
    (grads,) = dask.compute(grads, scheduler="sync")
    for name, grad in grads.items():
        assert_agrees(grad, sums[name], name)


@pytest.mark.parametrize("chunk", [1, 2, 3])
@each_operator(CONVOLUTIONS)
def test_chunks_in_space_along_any_number_of_axes(case: AnyCase, chunk: int) -> None:
    functions, common = functions_of(case), shared(case)

    def cut(arrays: dict[str, Any]) -> dict[str, Any]:
        arrays = lazy(case, arrays, dict.fromkeys(arrays, 1))
        return {
            name: array.rechunk((1, 1, *(chunk,) * case.axes))
            if isinstance(array, da.Array) and name not in common
            else array
            for name, array in arrays.items()
        }

    with cudeform.options(max_displacement=1000):
        output = functions.forward(**cut(case.arguments))
        grads = functions.backward(**cut(case.backward_arguments))._asdict()
    assert output.numblocks[2:] == tuple(-(-size // chunk) for size in output.shape[2:])
    plain = {"output": functions.forward(**case.arguments)}
    plain |= functions.backward(**case.backward_arguments)._asdict()
    (got,) = dask.compute({"output": output} | grads, scheduler="sync")
    for name, array in plain.items():
        scale = abs(array).max()
        np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-13 * scale, err_msg=name)


@each_operator(WHOLE_IMAGES)
def test_chunks_along_other_axes_are_refused(case: AnyCase) -> None:
    name, array = next(iter(several(case).operands.items()))
    arguments = lazy(case, several(case).arguments, {})
    arguments[name] = arguments[name].rechunk({1: 1})
    text = (
        f"{name} must have one chunk along each axis but the batch, because {case.operator} "
        f"computes whole images, got chunks {arguments[name].chunks}; call .rechunk({{1: -1}})"
    )
    assert array.shape[1] > 1
    with pytest.raises(ValueError, match=re.escape(text)):
        functions_of(case).forward(**arguments)


@each_operator(WHOLE_IMAGES)
def test_calls_are_lazy_and_checked_when_made(case: AnyCase) -> None:
    def forbidden(block: Any) -> Any:
        raise AssertionError("this was computed")

    case, functions = several(case), functions_of(case)
    arguments = lazy(case, case.backward_arguments, {})
    unread = {
        name: array.map_blocks(forbidden, meta=np.empty((0,) * array.ndim, array.dtype))
        if isinstance(array, da.Array)
        else array
        for name, array in arguments.items()
    }
    grads = functions.backward(**unread)
    with pytest.raises(AssertionError, match="this was computed"):
        grads[0].compute(scheduler="sync")
    with pytest.raises(ValueError, match="grad_output must have shape"):
        functions.backward(**unread | {"grad_output": unread["grad_output"][..., :1]})


@each_operator(WHOLE_IMAGES)
def test_names_are_deterministic_and_tasks_linear_in_the_number_of_chunks(case: AnyCase) -> None:
    case, functions = several(case), functions_of(case)

    def names(chunk: int) -> list[set[str]]:
        chunks = dict.fromkeys(case.backward_arguments, chunk)
        arguments = lazy(case, case.backward_arguments, chunks)
        grads = functions.backward(**arguments)
        output = functions.forward(**{n: a for n, a in arguments.items() if n != "grad_output"})
        arrays = [output, *(grad for grad in grads if grad is not None)]
        return [set(map(str, dict(array.__dask_graph__()))) for array in arrays]

    assert names(1) == names(1)
    for one, five in zip(names(5), names(1), strict=True):
        assert len(five) <= 5 * len(one) + 5  # a tree of sums has a few tasks more
