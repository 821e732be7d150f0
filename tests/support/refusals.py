"""A correct call, and a check that a change to it is refused."""

import re
from typing import Any

import numpy as np
import pytest

import cudeform


def arguments(**changes: Any) -> dict[str, Any]:
    """A call with 2 groups and 2 offset groups, correct but for the changes."""
    right = {
        "grad_output": np.ones((2, 6, 6, 5)),
        "input": np.ones((2, 4, 6, 5)),
        "offset": np.zeros((2, 36, 6, 5)),
        "weight": np.ones((6, 2, 3, 3)),
        "bias": np.ones(6),
        "stride": 1,
        "padding": 1,
        "dilation": 1,
        "mask": np.ones((2, 18, 6, 5)),
    }
    return right | changes


def forward(**changes: Any) -> Any:
    """The output of the changed call."""
    call = arguments(**changes)
    del call["grad_output"]
    return cudeform.deform_conv2d(**call)


def backward(**changes: Any) -> cudeform.Gradients:
    """The gradients of the changed call."""
    return cudeform.deform_conv2d_backward(**arguments(**changes))


def refused(error: type[Exception], text: str, **changes: Any) -> None:
    """Both directions must refuse the changed call; the message must contain ``text``."""
    with pytest.raises(error, match=re.escape(text)):
        backward(**changes)
    if "grad_output" not in changes:
        with pytest.raises(error, match=re.escape(text)):
            forward(**changes)


class Foreign:
    """An array of another library."""

    __module__ = "elsewhere.arrays"

    def __init__(self, array: Any) -> None:
        self.array, self.shape = array, array.shape

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()
