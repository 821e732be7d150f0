"""Small calls in one and three dimensions, and the functions for them, by number of axes."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from cases import Case, build

import cudeform
from cudeform import derivatives


class Functions(NamedTuple):
    """What users call in one, two or three dimensions."""

    forward: Any
    backward: Any
    jvp: Any
    double_backward: Any


FUNCTIONS = {
    1: Functions(
        cudeform.deform_conv1d,
        cudeform.deform_conv1d_backward,
        derivatives.deform_conv1d_jvp,
        derivatives.deform_conv1d_double_backward,
    ),
    2: Functions(
        cudeform.deform_conv2d,
        cudeform.deform_conv2d_backward,
        derivatives.deform_conv2d_jvp,
        derivatives.deform_conv2d_double_backward,
    ),
    3: Functions(
        cudeform.deform_conv3d,
        cudeform.deform_conv3d_backward,
        derivatives.deform_conv3d_jvp,
        derivatives.deform_conv3d_double_backward,
    ),
}

# Nothing is alike along two axes.
CASES = [
    build(
        "line",
        channels=4,
        size=(7,),
        out_channels=2,
        kernel=(3,),
        stride=(2,),
        padding=((2, 1),),
        groups=2,
        offset_groups=2,
        offset="small",
    ),
    build(
        "volume",
        batch=1,
        channels=4,
        size=(2, 3, 4),
        out_channels=2,
        kernel=(1, 2, 3),
        stride=(1, 2, 1),
        padding=((1, 0), (0, 1), (2, 0)),
        groups=2,
        offset_groups=2,
        offset="small",
    ),
]

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def settings(case: Case) -> dict[str, Any]:
    """The arguments of a case that are no arrays."""
    return {name: getattr(case, name) for name in ("stride", "padding", "dilation")}
