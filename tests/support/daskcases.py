"""Calls on Dask arrays: cases whose arrays have chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask
import dask.array as da
from cases import Case

import cudeform
from cudeform.checks import GRADIENTS

# Chunks along the batch and along space, for each argument others; channels are cut in any case.
CHUNKS = {
    "input": (2, 3, 5),
    "offset": (1, 7, 2),
    "mask": (3, 4, 3),
    "grad_output": (2, 1, 4),
}


def on_dask(case: Case, space: int | None = None) -> Case:
    """The case on Dask arrays whose chunks disagree.

    Args:
        case: on NumPy arrays.
        space: chunk of the offset along each spatial axis; None takes that of ``CHUNKS``.
    """

    def chunked(name: str) -> Any:
        array = getattr(case, name)
        batch, channels, along = CHUNKS[name]
        if space is not None and name == "offset":
            along = space
        sizes = (batch, channels, *(along if size < 60 else 997 for size in array.shape[2:]))
        return da.from_array(array, chunks=sizes)

    present = [name for name in CHUNKS if getattr(case, name) is not None]
    return replace(case, **{name: chunked(name) for name in present})


def everything(case: Case, *, needs: tuple[str, ...] = GRADIENTS) -> dict[str, Any]:
    """The output and the gradients of a case, computed if they are lazy."""
    output = cudeform.deform_conv2d(**case.arguments)
    grads = cudeform.deform_conv2d_backward(**case.backward_arguments, needs=needs)
    results = {"output": output} | {f"grad of {n}": g for n, g in grads._asdict().items()}
    present = {name: array for name, array in results.items() if array is not None}
    (computed,) = dask.compute(present, scheduler="sync")
    return computed
