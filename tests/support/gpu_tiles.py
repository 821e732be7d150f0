"""Calls of the tests of owned tiles, and how the gradient that they give is judged."""

from __future__ import annotations

from typing import Any

import pytest
from cases import SAME, Case, build
from checks import assert_agrees
from hostcuda import HostDevice, Launched
from support.gpu_cases import expected
from support.gpu_engine import TestDevice, backward

from cudeform.options import Options

# Several tiles, the last of each line and column narrower, and channels for several runs.
LARGE = build(
    "large",
    channels=40,
    size=(19, 21),
    out_channels=4,
    groups=2,
    offset_groups=2,
    padding=SAME,
    batch=1,
)
ACROSS = build("runs across groups", channels=80, size=(9, 11), offset_groups=5, batch=1)
MANY = build("many offset groups", channels=40, size=(9, 10), offset_groups=40, batch=1)
STEPS = build(
    "stride and dilation",
    channels=16,
    size=(40, 33),
    stride=(3, 2),
    dilation=(1, 2),
    padding=((2, 0), (0, 3)),
    batch=2,
)
SEVERAL = [LARGE, ACROSS, MANY, STEPS]
by_name = pytest.mark.parametrize("case", SEVERAL, ids=lambda case: case.name)


def grad_input(device: TestDevice, case: Case, options: Options | None = None, **more: Any) -> Any:
    return backward(device, case, options, needs=("input",), **more)["input"]


def assert_right(device: TestDevice, case: Case, options: Options | None = None) -> None:
    assert_agrees(
        grad_input(device, case, options), expected(case)["input"], case.name, roundings=2
    )


def launches(device: HostDevice) -> list[Launched]:
    return [did for did in device.log if isinstance(did, Launched) and did.kernel == "deform_tiles"]
