"""Calls are lazy; their graphs are small and have telling names."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from cases import build
from support.daskcases import on_dask

import cudeform
from cudeform import engine
from cudeform.interop.dask import deform_conv2d, deform_conv2d_backward

CASE = build("Dask, graphs", size=(24, 24), padding=((1, 1), (1, 1))).cast("float32")


def forbidden(block: Any) -> Any:
    raise AssertionError("this was computed")


def test_nothing_is_computed_by_a_call() -> None:
    there = on_dask(CASE, 8).map(
        lambda array: da.asarray(array).map_blocks(
            forbidden, meta=np.empty((0,) * array.ndim, "f4")
        )
    )
    with cudeform.options(max_displacement=4):
        output = cudeform.deform_conv2d(**there.arguments)
        cudeform.deform_conv2d_backward(**there.backward_arguments)
    with pytest.raises(AssertionError, match="this was computed"):
        output.compute(scheduler="sync")


def test_names_follow_from_what_is_computed() -> None:
    def name(reach: Any = 4, **options: Any) -> str:
        with cudeform.options(**options):
            return str(deform_conv2d(**on_dask(CASE, 8).arguments, max_displacement=reach).name)

    names = [name(), name(5), name(boundary_grad="zero"), name(workspace_limit=2**20)]
    assert name() == names[0]
    assert len(set(names)) == len(names)


def tasks(chunks: int) -> tuple[int, int]:
    """Tasks of the output and of all gradients for so many chunks along each axis."""
    size = 64 * chunks
    image = da.zeros((1, 2, size, size), chunks=(1, 2, 64, 64), dtype="f4")
    offset = da.zeros((1, 18, size, size), chunks=(1, 18, 64, 64), dtype="f4")
    call = image, offset, np.ones((2, 2, 3, 3), "f4"), np.ones(2, "f4"), 1, 1
    output = deform_conv2d(*call, max_displacement=8)
    grads = deform_conv2d_backward(output, *call, max_displacement=8)
    lazy = [grad for grad in grads if grad is not None]
    merged = {key for grad in lazy for key in dict(grad.__dask_graph__())}
    return len(dict(output.__dask_graph__())), len(merged)


def test_the_number_of_tasks_is_linear_in_the_number_of_chunks() -> None:
    (few, few_grads), (many, many_grads) = tasks(4), tasks(8)
    # Tiles at the border have fewer neighbours, so four times the tiles need a few tasks more.
    assert many < 4.7 * few
    assert many_grads < 4.7 * few_grads
    assert many < 15 * 8 * 8
    assert many_grads < 40 * 8 * 8


def test_options_are_those_of_the_call_and_a_task_has_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(engine, "forward", lambda ops, g, options, *others: seen.append(options))
    call = on_dask(CASE, 12).arguments
    with cudeform.options(boundary_grad="zero", workspace_limit=2**22):
        one = deform_conv2d(**call, max_displacement=20)
    with cudeform.options(num_threads=3):
        three = deform_conv2d(**call, max_displacement=20)
    one.compute(scheduler="threads")
    assert {(o.boundary_grad, o.workspace_limit, o.num_threads) for o in seen} == {
        ("zero", 2**22, 1)
    }
    seen.clear()
    three.compute(scheduler="sync")
    assert {options.num_threads for options in seen} == {3}
